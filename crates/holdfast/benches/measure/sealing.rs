//! Sealing and opening on one core, against OpenSSL's bare AES-256-GCM.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use holdfast_seal::{DataKey, ObjectContext, ObjectKind, Opener, Sealer};
use uuid::Uuid;

use crate::report::table;
use crate::timed::{ratio, shown};
use crate::{Size, timed};

const ROUNDS: usize = 5;
const PIECE: usize = 1 << 20;

pub(crate) fn measure(size: &Size) -> Result<String> {
    println!("sealing");
    let (mut sealing, mut opening, mut openssl) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let limit = Duration::from_secs(size.sealing_seconds);
        sealing.push(seal(limit)?);
        openssl.push(openssl_speed(size.sealing_seconds)?);
        opening.push(open(limit)?);
    }
    println!("  sealing {:.2}, OpenSSL {:.2} GB/s", timed::median(&sealing), timed::median(&openssl));
    let rows = [
        vec![
            "sealing (chunks of 16 KiB, from and into memory)".to_owned(),
            shown(&sealing),
            ratio(&sealing, &openssl),
        ],
        vec!["opening".to_owned(), shown(&opening), ratio(&opening, &openssl)],
        vec!["`openssl speed -evp aes-256-gcm -bytes 16384`".to_owned(), shown(&openssl), String::new()],
    ];
    Ok(format!(
        "## Sealing on one core\n\nHere more is better: GB/s of plaintext, and the ratio to OpenSSL (target: at least 1).\n\n{}",
        table(&["what", "GB/s", "to OpenSSL"], &rows)
    ))
}

fn context() -> ObjectContext {
    let some = || "00000000-0000-0000-0000-000000000000".to_owned();
    ObjectContext {
        organization: some(),
        service: some(),
        lineage: some(),
        owner: some(),
        kind: ObjectKind::BackupFile,
        name: "bench".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e9
}

/// As the gateway does it: pieces come in, sealed bytes go out.
fn seal(limit: Duration) -> Result<f64> {
    let plain = vec![0x5a_u8; PIECE];
    let mut out = BytesMut::with_capacity(2 * PIECE);
    let mut sealer = Sealer::new(&DataKey::random(), Uuid::new_v4(), &context(), &mut out)?;
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < limit {
        out.clear();
        sealer.update(&plain, &mut out)?;
        bytes += PIECE;
    }
    Ok(rate(bytes, began.elapsed()))
}

fn open(limit: Duration) -> Result<f64> {
    let (key, plain) = (DataKey::random(), vec![0x5a_u8; 64 * PIECE]);
    let sealed = holdfast_seal::seal_to_vec(&key, Uuid::new_v4(), &context(), &plain)?;
    let mut out = BytesMut::with_capacity(2 * PIECE);
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < limit {
        let mut opener = Opener::new(&key, &context());
        for piece in sealed.chunks(PIECE) {
            out.clear();
            opener.update(piece, &mut out)?;
        }
        opener.finish(&mut out)?;
        bytes += plain.len();
    }
    Ok(rate(bytes, began.elapsed()))
}

/// The last line is `AES-256-GCM  1234567.89k`, thousands of bytes a second.
fn openssl_speed(seconds: u64) -> Result<f64> {
    let output = Command::new("openssl")
        .args([
            "speed",
            "-elapsed",
            "-evp",
            "aes-256-gcm",
            "-bytes",
            "16384",
            "-seconds",
            &seconds.to_string(),
        ])
        .output()
        .context("run openssl")?;
    ensure!(output.status.success(), "openssl speed failed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last =
        text.lines().rev().find(|line| line.trim_end().ends_with('k')).context("a line with a rate")?;
    let number = last.split_whitespace().last().context("a rate")?.trim_end_matches('k');
    Ok(number.parse::<f64>()? * 1e3 / 1e9)
}
