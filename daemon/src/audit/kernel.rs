//! The kernel's own audit system, where it runs: a record of type TRUSTED_APP for each of ours, so that what
//! godebug does stands among what the host records anyway (`ausearch -m TRUSTED_APP`).
//!
//! It is a copy. A host without it, as every container is, misses nothing, and no failure of it holds
//! anything up.

use super::{Entry, Kind};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with, sockopt,
};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// AUDIT_TRUSTED_APP, of linux/audit.h's range for applications that the system trusts.
const TRUSTED_APP: u16 = 1121;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `struct nlmsghdr` (netlink(7)).
const HEADER: usize = 16;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the kernel of a record.
pub(super) fn tell(entry: &Entry) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    match send(&text(entry)) {
        Ok(()) => {}
        // No audit in this kernel, or none for this container.
        Err(error) if is_none(&error) => {}
        Err(error) => {
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!("the kernel's audit system does not take our records: {error}");
            }
        }
    }
}

fn is_none(error: &io::Error) -> bool {
    const NONE: [rustix::io::Errno; 3] = [
        rustix::io::Errno::CONNREFUSED,
        rustix::io::Errno::PROTONOSUPPORT,
        rustix::io::Errno::AFNOSUPPORT,
    ];
    NONE.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// In the fields that audit's tools know; they take `res` for the outcome.
fn text(entry: &Entry) -> String {
    let failed = matches!(entry.event, Kind::Refused | Kind::Denied | Kind::Stuck);
    let result = if failed { "failed" } else { "success" };
    let session = entry.session.as_deref().unwrap_or("?");
    format!(
        "op=godebug-{} unit={} id={} acct={} res={result}",
        entry.event.name(),
        value(&entry.unit),
        value(session),
        value(&entry.user),
    )
}

/// Quoted, or in hexadecimal where it could be read as more than one value, as audit(8)'s tools expect it.
fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != '"';
    if text.is_empty() {
        return "?".to_owned();
    }
    if text.chars().all(plain) {
        return format!("\"{text}\"");
    }
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

fn send(text: &str) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let family = AddressFamily::NETLINK;
    let socket = socket_with(family, SocketType::RAW, flags, Some(netlink::AUDIT))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    sendto(&socket, &message(text), SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (count, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    match error_in(&answer[..count]) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::other("the kernel's answer is none")),
    }
}

fn message(text: &str) -> Vec<u8> {
    // Audit's tools read up to a NUL.
    let length = HEADER + text.len() + 1;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend(TRUSTED_APP.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// What `struct nlmsgerr` says: 0, or a negative errno.
fn error_in(answer: &[u8]) -> Option<i32> {
    let error = answer.get(HEADER..HEADER + 4)?;
    Some(i32::from_ne_bytes(error.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_fields_that_audits_tools_know_and_no_other() {
        let entry = Entry::new(Kind::Refused, "shop.service", 7, "dev\" res=success", "no");
        let text = text(&entry);
        assert!(
            text.starts_with("op=godebug-refused unit=\"shop.service\" id=\"?\" acct=6465"),
            "{text}"
        );
        assert!(text.ends_with(" res=failed") && text.matches("res=").count() == 1, "{text}");
        let entry = Entry::new(Kind::Active, "", 0, "root", "yes").session("0000000a");
        let text = super::text(&entry);
        assert_eq!(text, "op=godebug-active unit=? id=\"0000000a\" acct=\"root\" res=success");
    }

    /// As root, where the kernel has audit: `dmesg`, or `ausearch -m TRUSTED_APP`, shows it.
    #[test]
    #[ignore = "needs root and a kernel with audit"]
    fn the_kernel_takes_a_record() {
        let entry = Entry::new(Kind::Active, "shop.service", 0, "root", "yes").session("0000000a");
        send(&text(&entry)).unwrap();
    }

    #[test]
    fn a_message_says_how_long_it_is_and_an_answer_what_became_of_it() {
        let message = message("op=x");
        assert_eq!(message.len(), 16 + 5);
        assert_eq!(message[..4], 21u32.to_ne_bytes());
        assert_eq!(message[4..6], 1121u16.to_ne_bytes());
        let mut answer = vec![0; HEADER];
        answer.extend((-13i32).to_ne_bytes());
        assert_eq!(error_in(&answer), Some(-13));
        assert_eq!(error_in(&answer[..18]), None);
    }
}
