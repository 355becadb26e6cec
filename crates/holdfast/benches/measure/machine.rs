//! What the figures were measured on, without names.

use std::fs;

use anyhow::Result;

/// A sentence.
pub(crate) fn describe() -> Result<String> {
    let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let virtual_machine = if cpu_info.contains(" hypervisor") { "a virtual machine with " } else { "" };
    let load = fs::read_to_string("/proc/loadavg")?;
    let busy = load.split(' ').next().unwrap_or("?").to_owned();
    Ok(format!(
        "The machine: {virtual_machine}{cores} cores ({model}), {} GiB of memory, {}, Linux {}; load average at the end {busy}.",
        kib >> 20,
        disk(),
        kernel.split('-').next().unwrap_or_default().trim(),
    ))
}

/// File system and kind of disk below the cache folder.
fn disk() -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut found = ("", "", "");
    for line in mounts.lines() {
        let mut parts = line.split(' ');
        let (Some(device), Some(at), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if "/var/cache/holdfast".starts_with(at) && at.len() >= found.1.len() {
            found = (device, at, kind);
        }
    }
    let device = found.0.trim_start_matches("/dev/");
    let turns = fs::read_to_string(format!("/sys/block/{device}/queue/rotational")).unwrap_or_default();
    let kind = match (device.starts_with("vd"), turns.trim()) {
        (true, _) => "a virtio disk",
        (_, "0") => "a solid-state disk",
        (_, "1") => "a rotating disk",
        _ => "a disk of unknown kind",
    };
    format!("{} on {kind}", found.2)
}
