//! Few file descriptors: connections wait, nothing spins or ends, and all goes on once there are some again.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::BINARY;

struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds of processor time that a process has used (proc(5), fields 14 and 15; a hundredth of a second each).
fn used_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name ends").split_whitespace().collect();
    [11, 12].iter().map(|n| fields[*n].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn answers(url: &str) -> bool {
    let ran = Command::new(BINARY)
        .args(["services", "list", "--url", url])
        .env("HOLDFAST_PASSWORD", "correct horse")
        .output();
    ran.is_ok_and(|ran| ran.status.success())
}

#[test]
fn connections_wait_when_there_are_no_file_descriptors_left() {
    const FILES: usize = 128;
    let data = tempfile::tempdir().expect("a folder");
    // A low soft limit is raised to the hard one.
    let limited = format!("ulimit -Sn 40 && ulimit -Hn {FILES} && exec \"$0\" \"$@\"");
    let mut child = Command::new("bash")
        .args(["-c", &limited, BINARY])
        .args(["serve", "--listen", "127.0.0.1:0", "--agent", "none", "--log", "warn", "--data"])
        .arg(data.path().join("data"))
        .env("HOLDFAST_ADMIN_PASSWORD", "correct horse")
        .env_remove("HOLDFAST_CONFIG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let serve = Serve(child);
    let url = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("listening on ").map(|(_, url)| url.trim().to_owned()))
        .expect("it says where it listens");
    let mut warning = String::new();
    said.read_line(&mut warning).expect("a line");
    assert!(warning.contains("LimitNOFILE") && warning.contains("128"), "{warning}");
    assert!(answers(&url));

    let address = url.trim_start_matches("http://").to_owned();
    let held: Vec<TcpStream> =
        (0..FILES + 60).map(|_| TcpStream::connect(&address).expect("the queue takes it")).collect();
    let (began, used) = (Instant::now(), used_seconds(serve.0.id()));
    std::thread::sleep(Duration::from_secs(3));
    let share = (used_seconds(serve.0.id()) - used) / began.elapsed().as_secs_f64();
    println!("processor time while no connection can be accepted: {:.1} %", share * 100.0);
    assert!(share < 0.3, "the accept loop spins: {share}");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !answers(&url) {
        assert!(Instant::now() < deadline, "it does not answer any more");
        std::thread::sleep(Duration::from_millis(200));
    }
}
