//! Log lines on standard error: text for people, JSON for machines.

use tracing_subscriber::EnvFilter;

/// # Errors
/// A filter that cannot be read.
pub(crate) fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
    Ok(())
}
