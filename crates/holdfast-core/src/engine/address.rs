//! How clients reach a service: the connection string that says everything, TLS or its absence included.

use super::EngineKind;

/// Who connects whereto.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    pub host: &'a str,
    pub port: u16,
    pub username: &'a str,
    pub password: &'a str,
    pub database: &'a str,
    /// The instance speaks TLS on its port.
    pub tls: bool,
}

/// How an engine's connection strings begin, and what follows the database: its scheme and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notation {
    pub tls: (&'static str, &'static str),
    pub plain: (&'static str, &'static str),
}

impl Notation {
    /// Whether a connection string in this notation asks for TLS.
    #[must_use]
    pub fn asks_for_tls(&self, connection_string: &str) -> bool {
        let (scheme, parameters) = self.tls;
        self.tls != self.plain
            && connection_string.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://"))
            && connection_string.ends_with(parameters)
    }
}

impl EngineKind {
    /// A connection string in the engine's own notation. It holds the password.
    #[must_use]
    pub fn connection_string(self, at: Endpoint<'_>) -> String {
        let notation = self.capability().notation;
        let (scheme, parameters) = if at.tls { notation.tls } else { notation.plain };
        let database = match at.database {
            "" => String::new(),
            database => format!("/{}", percent_encoded(database)),
        };
        format!(
            "{scheme}://{}:{}@{}:{}{database}{parameters}",
            percent_encoded(at.username),
            percent_encoded(at.password),
            if at.host.contains(':') { format!("[{}]", at.host) } else { at.host.to_owned() },
            at.port,
        )
    }
}

/// All but the unreserved characters of RFC 3986.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_its_own_notation_and_says_whether_there_is_tls() {
        use EngineKind::{Kafka, Mongodb, Mysql, Postgresql, Valkey};
        for (engine, tls, expected) in [
            (Postgresql, true, "postgresql://app_user:p%40s@127.0.0.1:5001/defaultdb?sslmode=require"),
            (Postgresql, false, "postgresql://app_user:p%40s@127.0.0.1:5001/defaultdb?sslmode=disable"),
            (Mysql, true, "mysql://app_user:p%40s@127.0.0.1:5001/defaultdb?ssl-mode=REQUIRED"),
            (Mysql, false, "mysql://app_user:p%40s@127.0.0.1:5001/defaultdb?ssl-mode=DISABLED"),
            (
                Mongodb,
                false,
                "mongodb://app_user:p%40s@127.0.0.1:5001/defaultdb?authSource=admin&directConnection=true&tls=false",
            ),
            (
                Mongodb,
                true,
                "mongodb://app_user:p%40s@127.0.0.1:5001/defaultdb?authSource=admin&directConnection=true&tls=true&tlsAllowInvalidCertificates=true",
            ),
            (Valkey, true, "rediss://app_user:p%40s@127.0.0.1:5001/0"),
            (Valkey, false, "redis://app_user:p%40s@127.0.0.1:5001/0"),
            (Kafka, true, "kafka+ssl://app_user:p%40s@127.0.0.1:5001"),
        ] {
            let database = engine.capability().default_database;
            let at = Endpoint {
                host: "127.0.0.1",
                port: 5001,
                username: "app_user",
                password: "p@s",
                database,
                tls,
            };
            assert_eq!(engine.connection_string(at), expected);
            assert_eq!(engine.capability().notation.asks_for_tls(expected), tls, "{expected}");
        }
    }

    #[test]
    fn an_address_of_ipv6_stands_in_brackets() {
        for engine in EngineKind::ALL {
            let at =
                Endpoint { host: "::1", port: 1, username: "a", password: "b", database: "c", tls: false };
            assert!(engine.connection_string(at).contains("://a:b@[::1]:1/c"), "{engine}");
        }
    }

    #[test]
    fn whatever_could_end_a_part_of_an_address_is_encoded() {
        assert_eq!(percent_encoded("p@ss:w/ö?#%"), "p%40ss%3Aw%2F%C3%B6%3F%23%25");
    }
}
