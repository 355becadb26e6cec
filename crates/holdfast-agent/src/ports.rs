//! Ports for engines. Between the moment at which a port is chosen and that at which the engine listens on it lie seconds
//! or, for a restore, hours, and a stopped service keeps its port: that nobody listens says too little, so a port is claimed
//! before the other agents of the host, and before `holdfast open`.

use std::net::{IpAddr, TcpListener};
use std::path::Path;

use crate::claims;
use crate::error::AgentError;

/// Below those that the system gives to clients (`ip_local_port_range`, from 32768 on).
const PORTS: std::ops::Range<u16> = 20_000..28_000;

const PREFIX: &str = "port-";

/// Claims a port that nobody listens on for the instance in `folder`, which has no other from then on.
///
/// # Errors
/// When there is none, or the claims cannot be read or written.
pub(crate) fn claim(claims: &Path, folder: &Path, address: IpAddr) -> Result<u16, AgentError> {
    release(claims, folder)?;
    for _ in 0..1000 {
        let port = rand::random_range(PORTS);
        if claim_this(claims, folder, port)? {
            if TcpListener::bind((address, port)).is_ok() {
                return Ok(port);
            }
            claims::release(claims, &name(port), folder);
        }
    }
    Err(AgentError::Unusable(format!("no free port between {} and {}", PORTS.start, PORTS.end)))
}

/// Whether this port is the instance's, now or already, whoever listens on it.
///
/// # Errors
/// When the claims cannot be read or written.
pub(crate) fn claim_this(claims: &Path, folder: &Path, port: u16) -> Result<bool, AgentError> {
    claims::take(claims, &name(port), folder)
}

/// Gives back what the instance has, also where nothing is known of it but its folder.
///
/// # Errors
/// When the claims cannot be read or written.
pub(crate) fn release(claims: &Path, folder: &Path) -> Result<(), AgentError> {
    claims::release_all(claims, PREFIX, folder)
}

fn name(port: u16) -> String {
    format!("{PREFIX}{port}")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_two_agents_choose_at_once_differs_before_anybody_listens() {
        let host = tempfile::tempdir().expect("a temporary folder");
        let claims = host.path().join("claims");
        let chosen = |instance: usize| {
            let folder = host.path().join(instance.to_string());
            claim(&claims, &folder, Ipv4Addr::LOCALHOST.into()).expect("a port")
        };
        // Of so many random ones two would be the same, but for one time in a million.
        let mut ports: Vec<u16> = (0..470).map(chosen).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 470);
    }

    #[test]
    fn an_instance_has_one_port_until_it_gives_it_back() {
        let host = tempfile::tempdir().expect("a temporary folder");
        let claims = host.path().join("claims");
        let [one, two] = ["one", "two"].map(|name| host.path().join(name));
        let take = |folder: &Path, port| claim_this(&claims, folder, port).expect("readable");
        let first = claim(&claims, &one, Ipv4Addr::LOCALHOST.into()).expect("a port");
        assert!(take(&one, first) && !take(&two, first));
        let second = claim(&claims, &one, Ipv4Addr::LOCALHOST.into()).expect("a port");
        assert!(first == second || take(&two, first), "a second try kept the first one's port");
        assert!(!take(&two, second));
        release(&claims, &one).expect("writable");
        assert!(take(&two, second));
    }
}
