//! A physical replication client on an instance's socket: the log as the engine writes it, in its own bytes.
//!
//! Without a replication slot (`docs/decisions/0009-wal-tail.md`): the engine keeps a segment until it is archived, and
//! reading begins behind what the archive has. tokio-postgres has no replication protocol, and the crates that have one
//! (pgwire-replication 0.5, postgres-replication 0.6) speak logical replication alone.
//!
//! Source: PostgreSQL 17 documentation, 53.4 (streaming replication protocol).

use std::io;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_core::position::Position;
use jiff::Timestamp;
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::position::format_lsn;
use super::{probe, sql};
use crate::{EngineError, Instance, LogTail, Mark, Paths, Result};

/// As `synchronous_standby_names` calls it.
pub(super) const APPLICATION_NAME: &str = "holdfast_tail";
const COPY_BOTH: u8 = b'W';
/// Of a message `XLogData`: its tag, start, end and the server's clock.
const XLOG_DATA_HEADER: usize = 25;
/// PostgreSQL counts time in microseconds since 2000-01-01.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// A connection over which the engine sends its log.
pub(super) struct WalStream {
    stream: UnixStream,
    read: BytesMut,
    /// What is still to be sent; small.
    write: BytesMut,
    /// Where the next byte belongs.
    expected: u64,
    confirmed: u64,
    awaited: bool,
    instance: Instance,
    /// For marks, made at the first one.
    client: Option<tokio_postgres::Client>,
}

/// What the server says next.
enum Said {
    Message(Message),
    /// From here on both sides send data.
    CopyBoth,
}

impl WalStream {
    /// Connects and asks for the log of the timeline from there on.
    pub(super) async fn open(instance: &Instance, from: Position, awaited: bool) -> Result<Self> {
        let path = Paths(&instance.folder).run().join(format!(".s.PGSQL.{}", instance.port));
        let stream = UnixStream::connect(&path).await.map_err(EngineError::io(doing(instance)))?;
        let mut this = Self {
            stream,
            read: BytesMut::with_capacity(256 << 10),
            write: BytesMut::new(),
            expected: from.offset,
            confirmed: from.offset,
            awaited,
            instance: instance.clone(),
            client: None,
        };
        this.start(from).await?;
        Ok(this)
    }

    async fn start(&mut self, from: Position) -> Result<()> {
        let parameters =
            [("user", "postgres"), ("replication", "true"), ("application_name", APPLICATION_NAME)];
        frontend::startup_message(parameters, &mut self.write).map_err(self.failed())?;
        self.send().await.map_err(self.failed())?;
        loop {
            match self.said().await? {
                Said::Message(
                    Message::AuthenticationOk | Message::ParameterStatus(_) | Message::BackendKeyData(_),
                ) => {}
                Said::Message(Message::ReadyForQuery(_)) => break,
                _ => return Err(self.unexpected("it asks for more than the socket's peer (pg_hba.conf)")),
            }
        }
        let command =
            format!("START_REPLICATION PHYSICAL {} TIMELINE {}", format_lsn(from.offset), from.timeline);
        frontend::query(&command, &mut self.write).map_err(self.failed())?;
        self.send().await.map_err(self.failed())?;
        match self.said().await? {
            Said::CopyBoth => Ok(()),
            // The timeline ended here: nothing is to be sent, a table of the next one is.
            Said::Message(_) => Err(self.unexpected("it has no more log of this timeline")),
        }
    }

    /// The next message that matters. Cancelled, it loses nothing.
    async fn said(&mut self) -> Result<Said> {
        loop {
            if let Some(said) = self.parse().map_err(self.failed())? {
                match said {
                    Said::Message(Message::ErrorResponse(body)) => {
                        return Err(self.unexpected(&text_of(&body)));
                    }
                    Said::Message(Message::NoticeResponse(_)) => continue,
                    said => return Ok(said),
                }
            }
            if self.stream.read_buf(&mut self.read).await.map_err(self.failed())? == 0 {
                return Err(self.unexpected("the engine closed the connection"));
            }
        }
    }

    /// `postgres-protocol` does not know the message that begins a copy both ways.
    fn parse(&mut self) -> io::Result<Option<Said>> {
        if self.read.first() == Some(&COPY_BOTH) && self.read.len() >= 5 {
            let length = 1 + (&self.read[1..5]).get_u32() as usize;
            if self.read.len() < length {
                return Ok(None);
            }
            self.read.advance(length);
            return Ok(Some(Said::CopyBoth));
        }
        Ok(Message::parse(&mut self.read)?.map(Said::Message))
    }

    /// Cancelled, it goes on with what is left the next time.
    async fn send(&mut self) -> io::Result<()> {
        while !self.write.is_empty() {
            self.stream.write_buf(&mut self.write).await?;
        }
        Ok(())
    }

    /// "Standby status update": what lies before `confirmed` is stored for good. Synchronous commits wait for that, and so
    /// does a shutdown of the engine while this connection lives.
    fn put_status(&mut self) {
        let now = Timestamp::now().as_microsecond() - POSTGRES_EPOCH_SECONDS * 1_000_000;
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(self.expected);
        body.put_u64(self.confirmed);
        body.put_u64(self.confirmed);
        body.put_i64(now);
        body.put_u8(0);
        frontend::CopyData::new(body.freeze()).expect("it is short").write(&mut self.write);
    }

    /// Takes the body of a copy message: log, or a sign of life that may want an answer.
    fn take(&mut self, mut body: Bytes) -> Result<Option<(u64, Bytes)>> {
        match body.first() {
            Some(b'w') if body.len() >= XLOG_DATA_HEADER => {
                body.advance(1);
                let at = body.get_u64();
                body.advance(16);
                if at != self.expected {
                    let what = format!("it sent {} instead of {}", format_lsn(at), format_lsn(self.expected));
                    return Err(self.unexpected(&what));
                }
                self.expected += body.len() as u64;
                Ok((!body.is_empty()).then_some((at, body)))
            }
            Some(b'k') if body.len() >= 18 => {
                if body[17] != 0 {
                    self.put_status();
                }
                Ok(None)
            }
            _ => Err(self.unexpected("a message that is neither log nor a sign of life")),
        }
    }

    /// The connection for statements, kept over calls.
    async fn sql(&mut self) -> Result<&tokio_postgres::Client> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => sql::connect(&self.instance, "postgres").await?,
        };
        Ok(self.client.insert(client))
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> EngineError + use<> {
        EngineError::io(doing(&self.instance))
    }

    fn unexpected(&self, what: &str) -> EngineError {
        EngineError::Unexpected { doing: doing(&self.instance), what: what.to_owned() }
    }
}

#[async_trait]
impl LogTail for WalStream {
    fn is_awaited(&self) -> bool {
        self.awaited
    }

    async fn next(&mut self) -> Result<(u64, Bytes)> {
        loop {
            self.send().await.map_err(self.failed())?;
            match self.said().await? {
                Said::Message(Message::CopyData(body)) => {
                    if let Some(log) = self.take(body.into_bytes())? {
                        return Ok(log);
                    }
                }
                _ => return Err(self.unexpected("the engine ended the stream")),
            }
        }
    }

    async fn confirm(&mut self, offset: u64) -> Result<()> {
        self.confirmed = self.confirmed.max(offset);
        self.put_status();
        self.send().await.map_err(self.failed())
    }

    async fn mark(&mut self) -> Result<Mark> {
        probe::take_mark(self.sql().await?).await
    }

    /// A message that is no commit, so that it makes nothing new to wait for (PostgreSQL 17, 9.28.6).
    async fn flush(&mut self) -> Result<()> {
        let statement = "SELECT pg_logical_emit_message(false, 'holdfast', '', true)";
        let client = self.sql().await?;
        client.batch_execute(statement).await.map_err(EngineError::client("flush the log"))
    }
}

fn doing(instance: &Instance) -> String {
    format!("follow the log of instance {}", instance.stanza)
}

/// The primary message of a server's error.
fn text_of(body: &ErrorResponseBody) -> String {
    let message = body.fields().find(|field| Ok(field.type_() == b'M'));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    message.ok().flatten().map_or_else(|| "an error without a text".to_owned(), |m| text(m.value_bytes()))
}
