//! The completion scripts are scripts.

use std::process::{Command, Stdio};

use crate::BINARY;

#[test]
fn completions_are_valid_and_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let made = Command::new(BINARY).args(["completion", shell]).output();
        let made = made.expect("it starts");
        assert!(made.status.success(), "{shell}: {made:?}");
        let script = String::from_utf8(made.stdout).expect("UTF-8");
        for word in ["services", "backups", "restore", "window"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &script).expect("writable");
        // Checked where the shell is installed; bash always is.
        let checked = Command::new(shell).arg("-n").arg(file.path()).stderr(Stdio::inherit()).status();
        match checked {
            Ok(status) => assert!(status.success(), "{shell} does not understand it"),
            Err(error) => assert!(shell != "bash", "{error}"),
        }
    }
}
