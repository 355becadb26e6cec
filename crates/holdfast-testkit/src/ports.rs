//! Ports for the servers of tests. Each test is a process of its own and many run at once, so a port that one asked the system
//! for and gave back may be another's a moment later. Here a process takes a block of ports, which nobody else gets while it
//! lives, below those that the system gives to clients (ip_local_port_range, from 32768 on) and beside those that agents
//! give to services (from 20000 on).

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use rand::seq::SliceRandom as _;

const FIRST: u16 = 12_000;
const BLOCK: u16 = 20;
const BLOCKS: u16 = 400;

/// What this process has. Blocks stay locked while it lives: a server that is stopped and started again keeps its port.
struct Taken {
    locks: Vec<Flock<File>>,
    next: u16,
    end: u16,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken { locks: Vec::new(), next: 0, end: 0 });

/// A port on loopback that nobody listens on, and that no other test is given while this process lives.
///
/// # Errors
/// When all blocks are taken.
pub fn reserve() -> Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if taken.next == taken.end {
            let (number, lock) = take_block()?;
            taken.locks.push(lock);
            taken.next = FIRST + number * BLOCK;
            taken.end = taken.next + BLOCK;
        }
        let port = taken.next;
        taken.next += 1;
        // A test that was killed may have left an engine behind.
        if is_free(port) {
            return Ok(port);
        }
    }
}

/// Whether nothing listens on a port of loopback any more, nor holds it.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn take_block() -> Result<(u16, Flock<File>)> {
    let folder = std::env::temp_dir().join("holdfast-test-ports");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    // Runs of other users take their blocks there too.
    let _ = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)); // another's has it already
    let mut blocks: Vec<u16> = (0..BLOCKS).collect();
    blocks.shuffle(&mut rand::rng());
    for number in blocks {
        let path = folder.join(number.to_string());
        let file = File::open(&path).or_else(|_| File::create(&path));
        let lock = file.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        if let Ok(Ok(lock)) = lock {
            return Ok((number, lock));
        }
    }
    anyhow::bail!("all {BLOCKS} blocks of ports are taken; see {}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_listened_on() {
        let ports: Vec<u16> = (0..usize::from(BLOCK) * 3).map(|_| reserve().expect("a port")).collect();
        let mut different = ports.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), ports.len());
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
        }
    }
}
