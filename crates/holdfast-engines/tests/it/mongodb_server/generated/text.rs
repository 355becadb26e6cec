//! Documents as text: JSON, and the other types of BSON as `name(…)`. What is written down is what the server gets: names that come
//! twice, text that is no UTF-8, any bits of a double.

use anyhow::{Context as _, Result, bail, ensure};
use bson::RawDocumentBuf;

/// A type's number, and a value's bytes.
struct Value(u8, Vec<u8>);

pub(super) fn document(text: &str) -> Result<RawDocumentBuf> {
    let mut reader = Reader(text.as_bytes());
    let Value(kind, bytes) = reader.value().with_context(|| text.to_owned())?;
    ensure!(kind == 3 && reader.peek().is_none(), "no document, or more than one: {text}");
    Ok(RawDocumentBuf::from_bytes(bytes)?)
}

fn framed(fields: &[u8]) -> Vec<u8> {
    [&length(fields.len() + 5), fields, &[0]].concat()
}

fn text_value(text: &[u8]) -> Vec<u8> {
    [&length(text.len() + 1), text, &[0]].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a short one").to_le_bytes()
}

fn field(into: &mut Vec<u8>, name: &[u8], value: &Value) {
    into.push(value.0);
    into.extend_from_slice(name);
    into.push(0);
    into.extend_from_slice(&value.1);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_ascii_start();
        self.0.first().copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.0 = &self.0[usize::from(is)..];
        is
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        ensure!(self.eat(byte), "no {} at {}", char::from(byte), String::from_utf8_lossy(self.0));
        Ok(())
    }

    fn value(&mut self) -> Result<Value> {
        match self.peek().context("a value")? {
            b'{' => self.fields(),
            b'[' => self.elements(),
            b'"' => Ok(Value(2, text_value(&self.string()?))),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.named(),
        }
    }

    fn fields(&mut self) -> Result<Value> {
        self.expect(b'{')?;
        let mut all = Vec::new();
        while !self.eat(b'}') {
            let name = self.string()?;
            self.expect(b':')?;
            field(&mut all, &name, &self.value()?);
            ensure!(self.eat(b',') || self.peek() == Some(b'}'), "no end of a document");
        }
        Ok(Value(3, framed(&all)))
    }

    fn elements(&mut self) -> Result<Value> {
        self.expect(b'[')?;
        let (mut all, mut number) = (Vec::new(), 0);
        while !self.eat(b']') {
            field(&mut all, number.to_string().as_bytes(), &self.value()?);
            number += 1;
            ensure!(self.eat(b',') || self.peek() == Some(b']'), "no end of an array");
        }
        Ok(Value(4, framed(&all)))
    }

    fn string(&mut self) -> Result<Vec<u8>> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'"' => return Ok(text),
                b'\\' => match self.byte()? {
                    b'n' => text.push(b'\n'),
                    b'x' => text.push(hex::decode([self.byte()?, self.byte()?])?[0]),
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let (byte, rest) = self.0.split_first().context("more text")?;
        self.0 = rest;
        Ok(*byte)
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> String {
        let end = self.0.iter().position(|byte| !belongs(*byte)).unwrap_or(self.0.len());
        let word = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end..];
        word
    }

    fn number(&mut self) -> Result<Value> {
        let text = self.word(|byte| byte.is_ascii_digit() || b"+-.eL".contains(&byte));
        Ok(match text.strip_suffix('L') {
            Some(long) => Value(0x12, long.parse::<i64>()?.to_le_bytes().to_vec()),
            None if text.contains(['.', 'e']) => Value(1, text.parse::<f64>()?.to_le_bytes().to_vec()),
            None => Value(0x10, text.parse::<i64>()?.to_le_bytes()[..4].to_vec()),
        })
    }

    /// A word, or a word and arguments.
    fn named(&mut self) -> Result<Value> {
        let name = self.word(|byte| byte.is_ascii_alphabetic());
        let mut arguments = Vec::new();
        if self.eat(b'(') {
            while !self.eat(b')') {
                arguments.push(self.value()?);
                self.eat(b',');
            }
        }
        typed(&name, &arguments)
    }
}

fn typed(name: &str, arguments: &[Value]) -> Result<Value> {
    let bytes = |at: usize| arguments.get(at).map(|Value(_, bytes)| bytes.as_slice()).unwrap_or_default();
    let text = |at: usize| bytes(at).get(4..).unwrap_or_default().strip_suffix(&[0]).unwrap_or_default();
    let number = |at: usize| bytes(at).first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    let hexed = |at: usize| hex::decode(text(at));
    Ok(match name {
        "false" => Value(8, vec![0]),
        "true" => Value(8, vec![1]),
        "null" => Value(0x0a, vec![]),
        "undefined" => Value(6, vec![]),
        "min" => Value(0xff, vec![]),
        "max" => Value(0x7f, vec![]),
        "double" => Value(1, hexed(0)?.into_iter().rev().collect()),
        "date" => Value(9, bytes(0).to_vec()),
        "stamp" => Value(0x11, [number(1).to_le_bytes(), number(0).to_le_bytes()].concat()),
        "decimal" => Value(0x13, hexed(0)?.into_iter().rev().collect()),
        "binary" => {
            let content = hexed(1)?;
            Value(5, [&length(content.len())[..], &[bytes(0)[0]], &content].concat())
        }
        "oid" => Value(7, hexed(0)?),
        "regex" => Value(0x0b, [text(0), &[0], text(1), &[0]].concat()),
        "code" => Value(0x0d, bytes(0).to_vec()),
        "symbol" => Value(0x0e, bytes(0).to_vec()),
        "pointer" => Value(0x0c, [bytes(0), &hexed(1)?].concat()),
        "scoped" => {
            let both = [bytes(0), bytes(1)].concat();
            Value(0x0f, [&length(both.len() + 4)[..], &both].concat())
        }
        "repeat" => Value(2, text_value(&text(1).repeat(number(0) as usize))),
        "deep" => (0..number(0)).fold(Value(0x10, vec![1, 0, 0, 0]), |inner, _| {
            let mut one = Vec::new();
            field(&mut one, b"a", &inner);
            Value(3, framed(&one))
        }),
        other => bail!("no type {other}"),
    })
}
