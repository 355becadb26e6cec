//! Errors as texts.

/// An error with everything that caused it, in one line. Causes that repeat what is said already are left out: layers of a library often
/// say what the one below them says.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Says(&'static str, #[source] Option<Box<Says>>);

    #[test]
    fn every_cause_is_said_once() {
        let says = |text, cause| Says(text, Some(Box::new(cause)));
        let error =
            says("cannot store", says("store is away: refused", says("refused", Says("errno 111", None))));
        assert_eq!(super::chain(&error), "cannot store: store is away: refused: errno 111");
    }
}
