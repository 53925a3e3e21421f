//! The fence: a table of nftables for each remote session, which lets only the session's sources
//! reach its port, and lets nobody when the kernel's timeout has run out.
//!
//! It only narrows: an accept here does not open what a later chain drops, while its drop is final
//! (nft(8)). So it holds whatever happens to firewalld, and needs no process to end.

use godebug_api::{Cidr, Port};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const NFT: &str = "nft";
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft cannot be run: {0}")]
    Start(std::io::Error),
    #[error("nft gave no answer within 5 s")]
    TimedOut,
    #[error("nft refused: {0}")]
    Refused(String),
}

/// Puts the fence up, or puts it up anew with another end: one transaction, so there is no moment
/// without it.
///
/// # Errors
/// When nft refuses or is not there; nothing was changed then.
pub async fn raise(
    table: &str,
    port: Port,
    sources: &[Cidr],
    ends_in: Duration,
) -> Result<(), NftError> {
    run(&["-f", "-"], &ruleset(table, port, sources, ends_in)).await.map(drop)
}

/// Takes the fence away. One that is not there is a success.
///
/// # Errors
/// When nft refuses or is not there.
pub async fn remove(table: &str) -> Result<(), NftError> {
    // `destroy` needs nft 1.0.7: adding first makes the deletion succeed everywhere.
    run(&["-f", "-"], &format!("add table inet {table}\ndelete table inet {table}\n"))
        .await
        .map(drop)
}

/// The names of all fences there are, of whatever session.
///
/// # Errors
/// When nft refuses or is not there.
pub async fn list() -> Result<Vec<String>, NftError> {
    let text = run(&["list", "tables", "inet"], "").await?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("table inet "))
        .filter(|name| name.starts_with("godebug_"))
        .map(str::to_owned)
        .collect())
}

fn ruleset(table: &str, port: Port, sources: &[Cidr], ends_in: Duration) -> String {
    // Whole seconds, one more than asked: the orderly end comes first.
    let seconds = ends_in.as_secs() + 1;
    let elements = |ipv4: bool| {
        let list: Vec<String> = sources
            .iter()
            .filter(|source| source.is_ipv4() == ipv4)
            .map(|source| format!("{source} timeout {seconds}s"))
            .collect();
        if list.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }}", list.join(", "))
        }
    };
    let (peers4, peers6) = (elements(true), elements(false));
    format!(
        "add table inet {table}
delete table inet {table}
table inet {table} {{
  set peers4 {{ type ipv4_addr; flags interval, timeout; {peers4} }}
  set peers6 {{ type ipv6_addr; flags interval, timeout; {peers6} }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    tcp dport {port} ip saddr @peers4 accept
    tcp dport {port} ip6 saddr @peers6 accept
    tcp dport {port} drop
  }}
}}
"
    )
}

async fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut child = Command::new(NFT)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failure to write shows in nft's own answer.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| NftError::TimedOut)?
        .map_err(NftError::Start)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Refused(text.lines().next().unwrap_or("no reason given").to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_drops_whatever_is_not_a_source() {
        let sources = ["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()];
        let text = ruleset("godebug_x", 2345.try_into().unwrap(), &sources, Duration::from_secs(9));
        assert!(text.contains("{ 10.0.0.0/8 timeout 10s }"), "{text}");
        assert!(text.contains("{ fd00::1/128 timeout 10s }"), "{text}");
        assert!(text.trim_end().ends_with("tcp dport 2345 drop\n  }\n}"), "{text}");
    }
}
