//! Statements about scheduled events, read for what they say of a status.

use super::{Event, Status, named};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A name in backticks or double quotes, or a string.
    Quoted(String),
    Mark(char),
}

/// A statement up to the body of an event.
pub(super) struct Statement(Vec<Token>);

impl Statement {
    pub(super) fn new(text: &str) -> Self {
        Self(tokens(text))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn word(&self, at: usize) -> String {
        match self.0.get(at) {
            Some(Token::Word(word)) => word.to_ascii_uppercase(),
            _ => String::new(),
        }
    }

    pub(super) fn part(&self, at: usize) -> Option<String> {
        match self.0.get(at) {
            Some(Token::Word(name) | Token::Quoted(name)) => Some(name.clone()),
            _ => None,
        }
    }

    /// Behind `IF EXISTS` and `IF NOT EXISTS`.
    pub(super) fn behind_conditions(&self, mut at: usize) -> usize {
        while ["IF", "NOT", "EXISTS"].contains(&&*self.word(at)) {
            at += 1;
        }
        at
    }

    pub(super) fn is_conditional(&self, name_at: usize) -> bool {
        self.word(name_at - 1) == "EXISTS"
    }

    /// The name at `at`, with its database, and where the statement goes on.
    pub(super) fn name(&self, at: usize, database: &str) -> Option<(Event, usize)> {
        let first = self.part(at)?;
        match self.0.get(at + 1) {
            Some(Token::Mark('.')) => Some((named(first, &self.part(at + 2)?), at + 3)),
            _ => Some((named(database.to_owned(), &first), at + 1)),
        }
    }

    /// Places of clauses; the text of a comment is none.
    fn clauses(&self, from: usize) -> impl Iterator<Item = (usize, String)> {
        (from..self.0.len()).map(|at| (at, self.word(at))).take_while(|(_, word)| word != "DO")
    }

    pub(super) fn status(&self, from: usize) -> Option<Status> {
        let last = self.clauses(from).filter(|(_, word)| word == "ENABLE" || word == "DISABLE").last();
        last.map(|(at, word)| match &*word {
            "ENABLE" => Status::Enabled,
            _ if self.word(at + 1) == "ON" && self.word(at + 2) != "COMPLETION" => Status::DisabledOnReplica,
            _ => Status::Disabled,
        })
    }

    pub(super) fn new_name(&self, from: usize, database: &str) -> Option<Event> {
        let (at, _) = self.clauses(from).find(|(_, word)| word == "RENAME")?;
        self.name(at + 2, database).map(|(event, _)| event)
    }
}

/// Words, names and strings up to the body of the event; comments are left out, but what MySQL executes in them is not.
fn tokens(statement: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("/*!") {
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if rest.starts_with("*/") {
            rest = &rest[2..];
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if ['`', '"', '\''].contains(&first) {
            let (quoted, after) = quoted(&rest[1..], first);
            tokens.push(Token::Quoted(quoted));
            rest = after;
        } else if first.is_alphanumeric() || first == '_' || first == '$' {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word.to_owned()));
            if word.eq_ignore_ascii_case("DO") {
                return tokens;
            }
            rest = after;
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut content = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return (content, &text[at + c.len_utf8()..]);
            }
        } else if c == '\\' && quote != '`' {
            content.extend(chars.next().map(|(_, escaped)| escaped));
            continue;
        }
        content.push(c);
    }
    (content, "")
}
