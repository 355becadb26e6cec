//! Statements by chance: templates with weights, and pools of what may stand in their places.

use std::ops::Range;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Templates in which `{x}` becomes a member of the pool `x`, which may hold such places itself. A name without a pool stays as it
/// stands.
#[derive(Clone, Copy)]
pub struct Grammar {
    /// How often each is chosen, relative to the others.
    pub statements: &'static [(u32, &'static str)],
    /// The pool of a name; empty where there is none.
    pub pool: fn(&str) -> &'static [&'static str],
}

impl Grammar {
    /// As many as a number within `count`.
    #[must_use]
    pub fn statements(&self, random: &mut StdRng, count: Range<usize>) -> Vec<String> {
        let count = random.random_range(count);
        (0..count).map(|_| self.statement(random)).collect()
    }

    /// One statement.
    ///
    /// # Panics
    /// Without any template.
    #[must_use]
    pub fn statement(&self, random: &mut StdRng) -> String {
        let chosen = self.statements.choose_weighted(random, |(weight, _)| *weight).expect("there are some");
        self.filled(chosen.1, random)
    }

    /// A template with its places filled.
    #[must_use]
    pub fn filled(&self, template: &str, random: &mut StdRng) -> String {
        let (mut done, mut rest) = (String::new(), template);
        while let Some(at) = rest.find('{') {
            done.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find('}').map(|end| (&rest[1..end], end + 1));
            match end.map(|(name, end)| ((self.pool)(name).choose(random), end)) {
                Some((Some(choice), end)) => {
                    done.push_str(&self.filled(choice, random));
                    rest = &rest[end..];
                }
                _ => {
                    done.push('{'); // of JSON, or of an array
                    rest = &rest[1..];
                }
            }
        }
        done.push_str(rest);
        done
    }
}
