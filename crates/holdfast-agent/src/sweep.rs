//! Once a day the agent, who writes the long objects and has the rights for it, removes what killed writers left in the
//! object store (R22).

use std::time::Duration;

use holdfast_core::causes::chain;

use crate::Agent;

const EVERY: Duration = Duration::from_secs(24 * 3600);
const AFTER_A_FAILURE: Duration = Duration::from_secs(3600);

pub(crate) async fn run(agent: &Agent) {
    loop {
        let pause = match agent.store.sweep().await {
            Ok(swept) => {
                let (removed, kept) = (swept.removed, swept.kept);
                tracing::info!(removed, kept, "looked for unfinished writes in the object store");
                EVERY
            }
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                tracing::warn!(error = %chain(&error), hint, "unfinished writes cannot be swept from the object store");
                AFTER_A_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
