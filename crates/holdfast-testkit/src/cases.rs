//! Tests whose cases are made by chance. What fails is made as small as it goes before it is told.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use rand::rngs::StdRng;

use crate::seed;

/// How long a smaller case is looked for; `HOLDFAST_SHRINK_SECONDS` asks for another time.
const SHRINKING: Duration = Duration::from_secs(120);

/// Statements, in parts between which the test does something.
#[derive(Clone)]
pub struct Case<const N: usize>(pub [Vec<String>; N]);

impl<const N: usize> Case<N> {
    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn without(&self, from: usize, count: usize) -> Self {
        let (mut left, mut at) = (self.clone(), 0);
        for part in &mut left.0 {
            part.retain(|_| {
                at += 1;
                !(from..from + count).contains(&(at - 1))
            });
        }
        left
    }
}

/// What the cases of a test are.
pub struct Cases<const N: usize> {
    /// The test, as its seed is printed with.
    pub name: &'static str,
    /// `HOLDFAST_SEED` asks for another; soaks do.
    pub seed: u64,
    /// `HOLDFAST_CASES` asks for more.
    pub count: u32,
    /// When the parts of a case are run, for people.
    pub parts: [&'static str; N],
}

impl<const N: usize> Cases<N> {
    /// Tries one after the other.
    ///
    /// # Errors
    /// That of the first case that fails, once a smaller one has been looked for and printed.
    pub async fn all_hold(
        &self,
        random_case: impl Fn(&mut StdRng) -> Case<N>,
        tried: impl AsyncFn(&Case<N>) -> Result<()>,
    ) -> Result<()> {
        let mut random = seed::generator_or(self.name, self.seed);
        for number in 1..=from_environment("HOLDFAST_CASES").unwrap_or(self.count) {
            let case = random_case(&mut random);
            if let Err(error) = tried(&case).await {
                println!("case {number}: {error:#}");
                let (case, error) = smaller(case, error, &tried).await;
                for (when, statements) in self.parts.iter().zip(&case.0) {
                    println!("{when}:\n  {}", statements.join(";\n  "));
                }
                return Err(error.context(format!("case {number}")));
            }
        }
        Ok(())
    }
}

/// Takes statements out as long as the case still fails at the same step, many first.
async fn smaller<const N: usize>(
    mut case: Case<N>,
    mut error: Error,
    tried: &impl AsyncFn(&Case<N>) -> Result<()>,
) -> (Case<N>, Error) {
    let limit = from_environment("HOLDFAST_SHRINK_SECONDS").map_or(SHRINKING, Duration::from_secs);
    let (began, mut count) = (Instant::now(), case.len() / 2);
    while count > 0 {
        let mut from = 0;
        while from < case.len() {
            if began.elapsed() > limit {
                return (case, error);
            }
            let left = case.without(from, count);
            match tried(&left).await {
                Err(still) if still.to_string() == error.to_string() => (case, error) = (left, still),
                _ => from += count,
            }
        }
        count /= 2;
    }
    (case, error)
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tells what a server refused, if `HOLDFAST_REFUSALS` asks for it.
pub fn refused(why: &str, statement: &str) {
    if std::env::var_os("HOLDFAST_REFUSALS").is_some() {
        println!("{why}: {statement}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_case_that_fails_becomes_as_small_as_it_goes() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let case = Case([words("a b c d"), words("e f g"), words("h i")]);
        let tried = async |case: &Case<3>| -> Result<()> {
            let all = case.0.concat().concat();
            anyhow::ensure!(!(all.contains('c') && all.contains('h')), "c and h");
            anyhow::ensure!(!all.is_empty(), "another step");
            Ok(())
        };
        let (small, error) = smaller(case, anyhow::anyhow!("c and h"), &tried).await;
        assert_eq!(small.0, [words("c"), Vec::new(), words("h")]);
        assert_eq!(error.to_string(), "c and h");
    }
}
