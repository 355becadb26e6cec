//! A defect of this program in what it does for one service stays with that service: the agent, which all others on the host
//! need, goes on.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use crate::error::AgentError;

/// Does it; a panic on the way is an error. What was half done then is as after a kill of the agent, which every step expects.
pub(crate) async fn contained<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or(Err(AgentError::Defect { doing }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_at_what() {
        let failed: Result<(), _> = contained("looking", async { panic!("a defect") }).await;
        let text = failed.expect_err("it panicked").to_string();
        assert!(text.starts_with("looking") && text.contains("defect"), "{text}");
        assert_eq!(contained("looking", async { Ok(1) }).await.expect("it did not"), 1);
    }
}
