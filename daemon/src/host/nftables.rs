//! The fence: a table of nftables for each remote session, which lets only the session's sources
//! reach its port, and lets nobody when the kernel's timeout has run out.
//!
//! It only narrows: an accept here does not open what a later chain drops, while its drop is final
//! (nft(8)). So it holds whatever happens to firewalld, and needs no process to end.

use godebug_api::{Cidr, Port};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
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

/// A rule of a session in the kernel's copy of firewalld's ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    chain: String,
    handle: u64,
}

/// Looks for rules that let `port` in by the way that ours take through firewalld: the chains for
/// positive priorities. A firewalld that was killed leaves its whole ruleset in the kernel.
///
/// # Errors
/// When nft refuses or is not there.
pub async fn left_by_firewalld(port: Port) -> Result<Vec<Left>, NftError> {
    let text = match run(&["--json", "list", "table", "inet", "firewalld"], "").await {
        Err(NftError::Refused(why)) if why.contains("No such file or directory") => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let ruleset = serde_json::from_str(&text)
        .map_err(|error| NftError::Refused(format!("its answer is no JSON: {error}")))?;
    Ok(find_left(&ruleset, port))
}

/// Removes such a rule.
///
/// # Errors
/// When nft refuses or is not there.
pub async fn remove_left(left: &Left) -> Result<(), NftError> {
    let handle = left.handle.to_string();
    run(&["delete", "rule", "inet", "firewalld", &left.chain, "handle", &handle], "")
        .await
        .map(drop)
}

fn find_left(ruleset: &Value, port: Port) -> Vec<Left> {
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_port = |expression: &Value| {
        expression["match"]["left"]["payload"]["field"] == "dport"
            && expression["match"]["right"] == port.get()
    };
    items
        .iter()
        .map(|item| &item["rule"])
        .filter_map(|rule| {
            let chain = rule["chain"].as_str().filter(|chain| chain.ends_with("_post"))?;
            let expressions = rule["expr"].as_array()?;
            let accepts = expressions.iter().any(|expression| expression.get("accept").is_some());
            (accepts && expressions.iter().any(is_port))
                .then_some(Left { chain: chain.to_owned(), handle: rule["handle"].as_u64()? })
        })
        .collect()
}

/// Tells when any ruleset of this host has changed, by whomever.
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// # Errors
    /// When the kernel does not let us: nfnetlink wants CAP_NET_ADMIN.
    pub fn watch() -> std::io::Result<Self> {
        /// Group 7 of nfnetlink, NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
        const NFTABLES: u32 = 1 << (7 - 1);
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::NETFILTER),
        )?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, NFTABLES))?;
        #[expect(deprecated, reason = "an OwnedFd is the file descriptor's only owner")]
        let socket = AsyncFd::new(socket)?;
        Ok(Self(socket))
    }

    /// Waits for the next change; what came meanwhile counts as one.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&mut self) -> std::io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut message = [0_u8; 8192];
        loop {
            match recv(ready.get_inner(), &mut message, RecvFlags::empty()) {
                Ok(_) => {}
                // More than fitted: something has changed, which is all we want to know.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
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

    #[test]
    fn a_rule_in_the_kernels_copy_of_firewalld_is_found_by_its_port() {
        let rule = |chain: &str, port: u16| {
            serde_json::json!({"rule": {"family": "inet", "table": "firewalld", "chain": chain,
                "handle": 182, "expr": [
                    {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.77.1.2"}},
                    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}},
                    {"accept": null}]}})
        };
        let ruleset = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.1.3"}},
            rule("filter_IN_public_allow", 2345),
            rule("filter_IN_public_post", 2346),
            rule("filter_IN_public_post", 2345)]});
        let found = find_left(&ruleset, 2345.try_into().unwrap());
        assert_eq!(found, [Left { chain: "filter_IN_public_post".to_owned(), handle: 182 }]);
        assert!(find_left(&Value::Null, 2345.try_into().unwrap()).is_empty());
    }
}
