//! A connection, from its handshake on.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, VersionRange, encode_request_header_into_buffer,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::accepted;
use crate::error::{KafkaError, Result};
use crate::scram::{Hash, Scram};
use crate::tls::{self, Trust};

/// How long a broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer may be as long; a fetch asks for less.
const LONGEST_ANSWER: usize = 128 << 20;
const CLIENT_ID: &str = "holdfast";

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Where a broker is and who comes.
#[derive(Clone)]
pub struct Login {
    pub host: String,
    pub port: u16,
    pub trust: Trust,
    pub mechanism: Mechanism,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}", self.username, self.host, self.port)
    }
}

/// A connection that is logged in. After an error other than `Refused` it is of no use any more.
pub struct Client {
    stream: TlsStream<TcpStream>,
    correlation: i32,
    versions: HashMap<i16, VersionRange>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// `Refused` for a login that is none; `Io`, `Silent`, `Unintelligible` where no broker answers.
    pub async fn connect(login: &Login) -> Result<Self> {
        let doing = format!("connect to kafka {login:?}");
        let seconds = PATIENCE.as_secs();
        tokio::time::timeout(PATIENCE, Self::logged_in(login, &doing))
            .await
            .map_err(|_| KafkaError::Silent { doing: doing.clone(), seconds })?
    }

    async fn logged_in(login: &Login, doing: &str) -> Result<Self> {
        let failed = || KafkaError::io(doing);
        let tcp = TcpStream::connect((login.host.as_str(), login.port)).await.map_err(failed())?;
        tcp.set_nodelay(true).map_err(failed())?;
        let name = ServerName::try_from(login.host.clone());
        let name = name.map_err(|error| KafkaError::unintelligible(doing, error))?;
        let connector = TlsConnector::from(tls::config(&login.trust)?);
        let stream = connector.connect(name, tcp).await.map_err(failed())?;
        let mut client = Self { stream, correlation: 0, versions: HashMap::new() };
        client.learn_versions().await?;
        client.log_in(login).await?;
        Ok(client)
    }

    /// Version 0 of this request is what every broker understands.
    async fn learn_versions(&mut self) -> Result<()> {
        let doing = "ask for the broker's versions";
        let known = VersionRange { min: 0, max: 0 };
        self.versions.insert(ApiVersionsRequest::KEY, known);
        let told = self.ask(doing, ApiVersionsRequest::default(), 0).await?;
        accepted(doing, told.error_code, None)?;
        let versions = told.api_keys.iter();
        self.versions = versions
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }))
            .collect();
        Ok(())
    }

    async fn log_in(&mut self, login: &Login) -> Result<()> {
        const DOING: &str = "log in";
        let mechanism = StrBytes::from_static_str(login.mechanism.name());
        let handshake = SaslHandshakeRequest::default().with_mechanism(mechanism);
        let told = self.ask(DOING, handshake, 1).await?;
        accepted(DOING, told.error_code, None)?;
        let (username, password) = (login.username.as_str(), login.password.as_str());
        let hash = match login.mechanism {
            Mechanism::Plain => {
                return self.authenticate(format!("\0{username}\0{password}")).await.map(drop);
            }
            Mechanism::ScramSha256 => Hash::Sha256,
            Mechanism::ScramSha512 => Hash::Sha512,
        };
        let scram = Scram::new(hash, username, password);
        let first = self.authenticate(scram.first()).await?;
        let (last, verifier) = scram.last(&first)?;
        match self.authenticate(last).await? == verifier {
            true => Ok(()),
            false => Err(KafkaError::unintelligible(DOING, "the broker does not know the password itself")),
        }
    }

    async fn authenticate(&mut self, word: String) -> Result<String> {
        const DOING: &str = "log in";
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(word));
        let told = self.ask(DOING, request, 1).await?;
        accepted(DOING, told.error_code, told.error_message.as_deref())?;
        String::from_utf8(told.auth_bytes.to_vec()).map_err(|error| KafkaError::unintelligible(DOING, error))
    }

    /// The newest version of a request that the broker has, if it has the request.
    #[must_use]
    pub fn newest<R: Request>(&self) -> Option<i16> {
        self.versions.get(&R::KEY).map(|versions| versions.max)
    }

    /// The newest version of a request that broker and library have, at most `at_most`: fields that a newer one has otherwise
    /// are none that the caller means.
    fn version<R: Request>(&self, doing: &'static str, at_most: i16) -> Result<i16> {
        let ours = VersionRange { min: R::VERSIONS.min, max: R::VERSIONS.max.min(at_most) };
        let theirs = self.versions.get(&R::KEY);
        let both = theirs.map(|theirs| ours.intersect(theirs)).filter(|both| !both.is_empty());
        let told = || theirs.map_or("nothing of it".to_owned(), |theirs| format!("versions {theirs}"));
        both.map(|both| both.max).ok_or_else(|| {
            KafkaError::unintelligible(
                doing,
                format!("we know versions {ours} of this, the broker {}", told()),
            )
        })
    }

    /// Sends a request and waits for its answer. `doing` says in a few words what for.
    ///
    /// # Errors
    /// `Io`, `Silent`, `Unintelligible`. What the answer says of errors is the caller's to read ([`accepted`]).
    pub async fn ask<R: Request>(
        &mut self,
        doing: &'static str,
        request: R,
        at_most: i16,
    ) -> Result<R::Response> {
        let seconds = PATIENCE.as_secs();
        tokio::time::timeout(PATIENCE, self.asked(doing, request, at_most))
            .await
            .map_err(|_| KafkaError::Silent { doing: doing.to_owned(), seconds })?
    }

    async fn asked<R: Request>(
        &mut self,
        doing: &'static str,
        request: R,
        at_most: i16,
    ) -> Result<R::Response> {
        let version = self.version::<R>(doing, at_most)?;
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let unlike = |error: &dyn std::fmt::Display| KafkaError::unintelligible(doing, error);
        let mut frame = BytesMut::zeroed(4);
        encode_request_header_into_buffer(&mut frame, &header).map_err(|error| unlike(&error))?;
        request.encode(&mut frame, version).map_err(|error| unlike(&error))?;
        let length = i32::try_from(frame.len() - 4).map_err(|error| unlike(&error))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.map_err(KafkaError::io(doing))?;
        self.stream.flush().await.map_err(KafkaError::io(doing))?;

        let mut answer = self.frame(doing).await?;
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let header = header.map_err(|error| unlike(&error))?;
        if header.correlation_id != self.correlation {
            return Err(unlike(&"an answer to something else came"));
        }
        R::Response::decode(&mut answer, version).map_err(|error| unlike(&error))
    }

    async fn frame(&mut self, doing: &'static str) -> Result<Bytes> {
        let length = self.stream.read_u32().await.map_err(KafkaError::io(doing))?;
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST_ANSWER);
        let length = length.ok_or_else(|| KafkaError::unintelligible(doing, "its answer is too long"))?;
        let mut frame = BytesMut::zeroed(length);
        self.stream.read_exact(&mut frame).await.map_err(KafkaError::io(doing))?;
        Ok(frame.freeze())
    }
}
