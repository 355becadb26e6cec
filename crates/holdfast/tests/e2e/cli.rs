//! The client commands against a control plane without an agent: what is printed where, and the exit codes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::BINARY;

const PASSWORD: &str = "correct horse";
const STARTUP: Duration = Duration::from_secs(30);

/// A `holdfast serve` of its own; ends with the test.
struct Server {
    process: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a folder for the data");
        let mut process = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--agent", "none", "--log", "error", "--data"])
            .arg(data.path().join("data"))
            .env("HOLDFAST_ADMIN_PASSWORD", PASSWORD)
            .env_remove("HOLDFAST_CONFIG")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = process.stdout.take().expect("it is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening on ") {
                    let _ = sender.send(url.trim().to_owned());
                }
            }
        });
        let url = receiver.recv_timeout(STARTUP);
        let server = Self { process, url: url.clone().unwrap_or_default(), _data: data };
        url.expect("serve says where it listens");
        server
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).stdin(Stdio::null());
        command.env("HOLDFAST_URL", &self.url).env("HOLDFAST_PASSWORD", PASSWORD).env_remove("HOLDFAST_USER");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a command said.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("the binary starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: status.code().expect("it ended by itself"), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It ended with that code, said that on stderr and nothing on stdout.
    #[track_caller]
    fn refused(self, code: i32, text: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(text), "{text:?} is not in {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[test]
fn the_client_speaks_to_people_and_to_programs() {
    let server = Server::start();
    services_are_made_listed_and_shown(&server);
    json_is_the_answer_and_nothing_else(&server);
    mistakes_are_told_with_the_next_step(&server);
    times_are_echoed_and_refused(&server);
    waiting_ends(&server);
    credentials_come_from_safe_places(&server);
    deleting_asks_first(&server);
    keys_are_rotated_and_shown(&server);
}

fn services_are_made_listed_and_shown(server: &Server) {
    let empty = server.run(&["services", "list"]).done();
    assert_eq!(empty.out, "");
    assert!(empty.err.contains("no services"), "{empty:?}");
    let args =
        ["services", "create", "shop", "--engine", "postgresql", "--plan", "tier-1", "--cidr", "10.0.0.0/8"];
    let made = server.run(&args).done();
    let (id, name) = made.out.trim().split_once("  ").expect("id and name");
    assert_eq!(name, "shop");
    let listed = server.run(&["services", "list"]).done();
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 2, "{listed:?}");
    assert!(lines[0].starts_with("NAME ") && lines[1].starts_with("shop "), "{listed:?}");
    let versions = server.run(&["services", "versions"]).done();
    assert!(versions.out.starts_with("ENGINE ") && versions.out.contains("postgresql"), "{versions:?}");
    let shown = server.run(&["services", "get", "shop"]).done();
    assert!(shown.out.contains(id) && shown.out.contains("10.0.0.0/8"), "{shown:?}");
    // The line of its age may have gone on.
    let lasting = |out: &str| -> Vec<String> {
        out.lines().filter(|line| !line.starts_with("created ")).map(str::to_owned).collect()
    };
    let by_id = server.run(&["services", "get", id]).done();
    assert_eq!(lasting(&by_id.out), lasting(&shown.out));
    let changed = server.run(&["services", "update", "shop", "--no-cidrs", "--plan", "tier-2"]).done();
    assert!(changed.out.contains("tier-2") && !changed.out.contains("10.0.0.0/8"), "{changed:?}");
    let jobs = server.run(&["jobs", "list", "--service", "shop"]).done();
    assert!(jobs.out.contains("provision"), "{jobs:?}");
}

fn keys_are_rotated_and_shown(server: &Server) {
    let fresh = server.run(&["keys", "status"]).done();
    for part in ["current version", "next rotation", "in 89 days", "WRAPS KEYS", "current"] {
        assert!(fresh.out.contains(part), "{part:?} is not in {fresh:?}");
    }
    let rotated = server.run(&["keys", "rotate", "--wait", "--timeout", "1m"]).done();
    assert!(rotated.out.contains("retired") && rotated.err.contains("done in"), "{rotated:?}");
    let keys = server.run(&["keys", "status", "-o", "json"]).done().json();
    assert_eq!(keys["current_version"], 2, "{keys}");
    let queued = server.run(&["keys", "rotate"]).done();
    assert_eq!(queued.out.trim().len(), 36, "a job's id: {queued:?}");
    assert!(queued.err.contains("holdfast jobs get"), "{queued:?}");
    server.run(&["jobs", "get", queued.out.trim(), "--wait", "--steps"]).done();
    let jobs = server.run(&["jobs", "list"]).done();
    assert!(jobs.out.contains("rotate keys") || jobs.out.contains("rotate_keys"), "{jobs:?}");
}

fn json_is_the_answer_and_nothing_else(server: &Server) {
    for before in [true, false] {
        let mut arguments = vec!["services", "get", "shop"];
        arguments.splice(if before { 0..0 } else { 3..3 }, ["--output", "json"]);
        let shown = server.run(&arguments).done();
        assert_eq!(shown.json()["name"], "shop");
        assert_eq!(shown.err, "");
    }
    assert_eq!(server.run(&["-o", "json", "services", "list"]).done().json()["total"], 1);
    assert!(server.run(&["backups", "list", "shop", "-o", "json"]).done().json()["backups"].is_array());
    assert_eq!(server.run(&["window", "shop", "-o", "json"]).done().json()["enabled"], true);
    let job = server.run(&["jobs", "list", "-o", "json"]).done().json()["jobs"][0].clone();
    let id = job["id"].as_str().expect("an id");
    assert_eq!(server.run(&["jobs", "get", id, "-o", "json"]).done().json()["kind"], "provision");
    let steps = server.run(&["jobs", "get", id, "--steps"]).done();
    assert!(steps.out.contains("create instance"), "{steps:?}");

    for (arguments, code, status) in [
        (&["services", "get", "nothing-here", "-o", "json"][..], 1, Value::Null),
        (&["backups", "get", "shop", "bkp_000000000000", "-o", "json"], 1, 404.into()),
        (&["restore", "shop", "--to", "x", "--at", "soon", "-o", "json"], 2, Value::Null),
        (&["services", "frobnicate", "-o", "json"], 2, Value::Null),
    ] {
        let ran = server.run(arguments);
        let error: Value = serde_json::from_str(&ran.err).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert_eq!(
            (ran.code, &error["status"], &error["exit_code"]),
            (code, &status, &code.into()),
            "{ran:?}"
        );
        assert_eq!(error["error"], error["message"]);
        assert_eq!(ran.out, "");
    }
}

fn mistakes_are_told_with_the_next_step(server: &Server) {
    server.run(&["services", "get", "shpo"]).refused(1, "did you mean shop?");
    let taken = ["services", "create", "shop", "--engine", "postgresql", "--plan", "tier-1"];
    server.run(&taken).refused(1, "HTTP 409");
    let unknown = ["services", "create", "shop-2", "--engine", "oracle", "--plan", "tier-1"];
    server.run(&unknown).refused(2, "postgresql, mysql, mongodb, valkey");
    let foreign = ["backups", "create", "shop", "--method", "mysqldump"];
    server.run(&foreign).refused(1, "backups of postgresql are made with pgbackrest");
    server.run(&["services", "update", "shop"]).refused(2, "--cidr");
    server.run(&["services", "update", "shop", "--plan", "tier-99"]).refused(1, "HTTP 400");
    server.run(&["restore", "shop", "--to", "copy"]).refused(2, "--at");
    server.run(&["restore", "shop", "--to", "copy", "--backup", "latest"]).refused(1, "backups create");
    server.run(&["backups", "create", "shop", "--type", "sideways"]).refused(2, "incremental");
    server.run(&["--output", "json", "config"]).refused(2, "client commands only");
    let window = server.run(&["window", "shop"]).done();
    assert!(window.out.contains("no recovery window yet"), "{window:?}");
}

fn times_are_echoed_and_refused(server: &Server) {
    let asked = server.run(&["restore", "shop", "--to", "copy", "--at", "2026-03-15 14:30:00.25"]);
    assert!(asked.err.contains("2026-03-15 14:30:00.25Z") && asked.err.contains("taken as UTC"), "{asked:?}");
    asked.refused(1, "holdfast window shop");
    let asked = server.run(&["restore", "shop", "--to", "copy", "--at", "10 minutes ago"]);
    assert!(asked.err.contains("10 min ago") && !asked.err.contains("taken as UTC"), "{asked:?}");
    server.run(&["restore", "shop", "--to", "copy", "--at", "half past"]).refused(2, "yesterday 14:30");
}

fn waiting_ends(server: &Server) {
    let args = ["services", "create", "slow", "--engine", "postgresql", "--plan", "tier-1", "--wait"];
    let ran = server.run(&[&args[..], &["--timeout", "1"]].concat());
    assert!(ran.err.contains("queued"), "{ran:?}");
    ran.refused(4, "holdfast jobs get ");
    server.run(&["services", "stop", "slow", "--timeout", "1"]).refused(2, "--wait");

    let mut waiting = server.command(&[
        "services",
        "create",
        "slower",
        "--engine",
        "postgresql",
        "--plan",
        "tier-1",
        "--wait",
    ]);
    let mut child = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut err = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    err.read_line(&mut said).expect("a line about the phase");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it lives");
    std::io::Read::read_to_string(&mut err, &mut said).expect("UTF-8");
    assert_eq!(child.wait().expect("it was started").code(), Some(130), "{said}");
    assert!(said.contains("the work goes on") && said.contains("holdfast jobs get "), "{said}");
    assert_eq!(server.run(&["services", "get", "slower", "-o", "json"]).done().json()["status"], "pending");
}

fn credentials_come_from_safe_places(server: &Server) {
    let mut bare = server.command(&["services", "list"]);
    Ran::of(bare.env_remove("HOLDFAST_PASSWORD")).refused(3, "HOLDFAST_PASSWORD");
    let mut wrong = server.command(&["services", "list"]);
    Ran::of(wrong.env("HOLDFAST_PASSWORD", "battery staple")).refused(3, "does not let user admin in");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "{PASSWORD}").expect("writable");
    let path = file.path().to_str().expect("UTF-8");
    let mut from_file = server.command(&["services", "list", "--password-file", path]);
    Ran::of(from_file.env("HOLDFAST_PASSWORD", "battery staple")).done();
    server.run(&["services", "list", "--url", "http://127.0.0.1:1"]).refused(3, "holdfast serve");
    server.run(&["services", "list", "--url", "http://a:b@127.0.0.1:1"]).refused(2, "credentials");
    server.run(&["services", "list", "--password", PASSWORD]).refused(2, "--password");
    server.run(&["services", "list", "--org", "strangers"]).refused(1, "HTTP 403");
}

fn deleting_asks_first(server: &Server) {
    server.run(&["services", "delete", "shop"]).refused(2, "--yes");
    server.run(&["backups", "delete", "shop", "bkp_000000000000"]).refused(2, "--yes");
    let gone = server.run(&["services", "delete", "shop", "--yes", "-o", "json"]).done();
    assert_eq!(gone.out, "");
    server.run(&["services", "get", "shop"]).refused(1, "no service is named shop");
}
