//! Networks that may connect, and which lists of them an engine can enforce: one that it cannot is refused, never ignored.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::EngineKind;

/// A network in CIDR notation, version 4 or 6. Bits behind the length do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The first address.
    pub address: IpAddr,
    pub length: u8,
}

/// Which lists of networks an engine can enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CidrRule {
    Any,
    /// Accounts are bound to masks of IPv4 addresses (MySQL 9.7 manual, "Specifying Account Names").
    Ipv4,
    /// The engine does not look where a client comes from, or its driver does not have it look. It can only listen on the
    /// loopback address instead of its usual one: for a list that names nothing but the loopback network, drivers make it.
    AllOrLoopback,
}

/// Why a list was refused; the text goes to the user as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrRefusal {
    #[error("allowed_cidrs[{index}]: {cidr:?} is no network in CIDR notation, like 10.0.0.0/8")]
    NoNetwork { index: usize, cidr: String },
    #[error(
        "allowed_cidrs[{index}]: {engine} cannot let in single networks of IPv6, such as {cidr}; name networks of IPv4, or none to let in everybody"
    )]
    Ipv4Only { engine: EngineKind, index: usize, cidr: String },
    #[error(
        "allowed_cidrs[{index}]: {engine} does not tell clients by their network here, so {cidr} could not be enforced; give no list \
         (or 0.0.0.0/0) to let in everybody who has a password and reaches the port, or 127.0.0.0/8 to let in this host alone"
    )]
    NotByNetwork { engine: EngineKind, index: usize, cidr: String },
}

const ALL_IPV4: Network = Network { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
const ALL_IPV6: Network = Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };
const LOOPBACK_IPV4: Network = Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), length: 8 };
const LOOPBACK_IPV6: Network = Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), length: 128 };

/// Whether a list lets in everybody: it is empty, or holds the network of all IPv4 addresses.
#[must_use]
pub fn lets_in_everybody(cidrs: &[String]) -> bool {
    cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.parse() == Ok(ALL_IPV4))
}

/// # Errors
/// [`CidrRefusal`] for the first entry that is no network, or that an engine of this rule cannot enforce.
pub fn check_cidrs(engine: EngineKind, rule: CidrRule, cidrs: &[String]) -> Result<(), CidrRefusal> {
    let mut networks = Vec::with_capacity(cidrs.len());
    for (index, cidr) in cidrs.iter().enumerate() {
        let network: Network =
            cidr.parse().map_err(|NoNetwork| CidrRefusal::NoNetwork { index, cidr: cidr.clone() })?;
        networks.push(network);
    }
    let everybody = lets_in_everybody(cidrs);
    let first = |refused: &dyn Fn(&Network) -> bool| {
        networks.iter().position(refused).map(|index| (index, cidrs[index].clone()))
    };
    match rule {
        CidrRule::Any => Ok(()),
        CidrRule::Ipv4 => match first(&|network| network.address.is_ipv6()) {
            Some((index, cidr)) if !(everybody && networks[index] == ALL_IPV6) => {
                Err(CidrRefusal::Ipv4Only { engine, index, cidr })
            }
            _ => Ok(()),
        },
        CidrRule::AllOrLoopback => {
            match first(&|network| ![LOOPBACK_IPV4, LOOPBACK_IPV6].contains(network)) {
                Some((index, cidr)) if !everybody => Err(CidrRefusal::NotByNetwork { engine, index, cidr }),
                _ => Ok(()),
            }
        }
    }
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, length) = text.split_once('/').ok_or(NoNetwork)?;
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let plain =
            length.bytes().all(|b| b.is_ascii_digit()) && (length.len() == 1 || !length.starts_with('0'));
        let length: u8 = length.parse().ok().filter(|_| plain).ok_or(NoNetwork)?;
        let address = match address {
            IpAddr::V4(address) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            _ => return Err(NoNetwork),
        };
        Ok(Self { address, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_networks_are_networks_and_begin_with_their_first_address() {
        for (good, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("9.9.9.9/0", "0.0.0.0/0"),
            ("192.168.1.1/32", "192.168.1.1/32"),
            ("::/0", "::/0"),
            ("2001:DB8::7/32", "2001:db8::/32"),
            ("2001:db8::7/128", "2001:db8::7/128"),
        ] {
            assert_eq!(good.parse::<Network>().map(|n| n.to_string()).as_deref(), Ok(expected), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/256",
            "::/129",
            "256.0.0.0/8",
            "10.0.0/8",
            "fe80::1%eth0/64",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "all",
            "example.com/8",
            "10.0.0.0/٨",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(NoNetwork), "{bad}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_enforced_is_refused_with_its_entry() {
        use CidrRule::{AllOrLoopback, Any, Ipv4};
        for (rule, list, refused) in [
            (Any, &[][..], None),
            (Any, &["10.0.0.0/8", "2001:db8::/32"], None),
            (Any, &["10.0.0.0/8", "here"], Some(1)),
            (Ipv4, &[], None),
            (Ipv4, &["10.0.0.0/8", "192.168.1.7/32"], None),
            (Ipv4, &["0.0.0.0/0", "::/0"], None),
            (Ipv4, &["::/0"], Some(0)),
            (Ipv4, &["10.0.0.0/8", "::/0"], Some(1)),
            (Ipv4, &["0.0.0.0/0", "2001:db8::/32"], Some(1)),
            (AllOrLoopback, &[], None),
            (AllOrLoopback, &["0.0.0.0/0"], None),
            (AllOrLoopback, &["10.0.0.0/8", "0.0.0.0/0", "::/0"], None),
            (AllOrLoopback, &["127.0.0.0/8"], None),
            (AllOrLoopback, &["127.0.0.1/8", "::1/128"], None),
            (AllOrLoopback, &["127.0.0.1/32"], Some(0)),
            (AllOrLoopback, &["127.0.0.0/8", "10.0.0.0/8"], Some(1)),
            (AllOrLoopback, &["::/0"], Some(0)),
        ] {
            let list: Vec<String> = list.iter().map(|cidr| (*cidr).to_owned()).collect();
            let answer = check_cidrs(EngineKind::Valkey, rule, &list);
            assert_eq!(
                answer.as_ref().err().map(|refusal| match refusal {
                    CidrRefusal::NoNetwork { index, .. }
                    | CidrRefusal::Ipv4Only { index, .. }
                    | CidrRefusal::NotByNetwork { index, .. } => *index,
                }),
                refused,
                "{rule:?} {list:?}"
            );
            if let Some(index) = refused {
                let text = answer.expect_err("it was refused").to_string();
                assert!(text.starts_with(&format!("allowed_cidrs[{index}]: ")), "{text}");
                assert!(text.contains(&list[index]), "{text}");
            }
        }
    }
}
