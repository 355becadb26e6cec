//! Users of an instance. The server keeps their passwords as bcrypt hashes, in an index that nobody but the agent may touch.
//!
//! Nobody but the agent may change users and roles, register repositories (folders of the host, or what is behind an address), make or
//! restore snapshots, or set up the cluster.
//!
//! Source: OpenSearch 2.19 documentation, "Access control API", "Permissions".

use serde_json::json;

use super::client::Client;
use super::config::{READER, TENANT};
use crate::{Result, UserSpec};

/// Who only reads.
fn is_reader(role: &str) -> bool {
    let role = role.to_ascii_lowercase();
    role.starts_with("read") && !role.contains("write")
}

/// Makes these users, or gives them these passwords and rights.
pub(super) async fn put(client: &Client, users: &[UserSpec]) -> Result<()> {
    for user in users {
        let role = if is_reader(&user.role) { READER } else { TENANT };
        let name = path_part(&user.username);
        let body = json!({"password": user.password, "backend_roles": [role]});
        client.put("make a user", &format!("/_plugins/_security/api/internalusers/{name}"), body).await?;
    }
    Ok(())
}

/// A name in a path.
pub(super) fn path_part(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_part_of_a_path() {
        assert_eq!(path_part("app_user"), "app_user");
        assert_eq!(path_part("../x?y#ü"), "..%2Fx%3Fy%23%C3%BC");
    }
}
