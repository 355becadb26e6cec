//! A tenant's connection that takes whatever bytes the server answers: the library's ends at an error's text that is no UTF-8.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::valkey::harness::{PASSWORD, Server};

pub(super) struct Wire(BufReader<TcpStream>);

pub(super) enum Answer {
    Bytes(Vec<u8>),
    Refused(String),
    Other,
}

impl Wire {
    pub(super) async fn connect(server: &Server) -> Result<Self> {
        let mut wire = Self(BufReader::new(TcpStream::connect(("127.0.0.1", server.instance.port)).await?));
        let login = ["AUTH", "app_user", PASSWORD].map(|word| word.as_bytes().to_vec());
        match wire.ask(&login).await? {
            Answer::Refused(why) => Err(Error::new(ErrorKind::PermissionDenied, why)),
            _ => Ok(wire),
        }
    }

    /// Errors are the connection's; what the server says is in the answer.
    pub(super) async fn ask(&mut self, words: &[Vec<u8>]) -> Result<Answer> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        self.0.write_all(&bytes).await?;
        let answer = self.part().await?;
        let Some(mut left) = answer.1 else { return Ok(answer.0) };
        while left > 0 {
            left += self.part().await?.1.unwrap_or(0) - 1;
        }
        Ok(Answer::Other)
    }

    /// One value; of a list only how many follow.
    async fn part(&mut self) -> Result<(Answer, Option<i64>)> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await?;
        let (Some(kind), Some(rest)) = (line.first(), line.get(1..line.len().saturating_sub(2))) else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        let number = || -> Option<i64> { std::str::from_utf8(rest).ok()?.parse().ok() };
        match kind {
            b'-' => Ok((Answer::Refused(rest.escape_ascii().to_string()), None)),
            b'*' => Ok((Answer::Other, Some(number().unwrap_or(0).max(0)))),
            b'$' => {
                let Some(length) = number().and_then(|length| usize::try_from(length).ok()) else {
                    return Ok((Answer::Other, None)); // nothing
                };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Ok((Answer::Bytes(bytes), None))
            }
            _ => Ok((Answer::Other, None)),
        }
    }
}
