//! The control socket: who reaches it may look and may make the session smaller; only root may
//! move its end. The contract is `godebug_api::control`.

use crate::gateway::Shared;
use crate::guests::Part;
use crate::notify;
use crate::transcript::Entry;
use godebug_api::control::{LONGEST_LINE, Reply, Request};
use godebug_api::{GuestName, clock};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// After a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes the socket, in place of one that an earlier gateway left.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers requests for as long as it is polled; dropping it closes every control connection.
pub(crate) async fn serve(shared: Arc<Shared>, listener: UnixListener) -> Infallible {
    let mut talks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while talks.try_join_next().is_some() {}
        match accepted {
            // One more is closed unheard: every real peer asks one thing and leaves.
            Ok(_) if talks.len() >= shared.limits.control_connections => {
                tracing::warn!("too many control connections at once; one was closed");
            }
            Ok((stream, _)) => {
                talks.spawn(talk(Arc::clone(&shared), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn talk(shared: Arc<Shared>, stream: UnixStream) {
    let Ok(peer) = stream.peer_cred() else { return };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let patience = shared.limits.control_request;
    loop {
        let (reply, last) = match timeout(patience, next_line(&mut reader)).await {
            Ok(Ok(Line::Whole(line))) => (answer_line(&shared, &line, peer.uid()).await, false),
            Ok(Ok(Line::TooLong)) => {
                (refused(format!("a request has at most {LONGEST_LINE} bytes")), true)
            }
            Ok(Ok(Line::End) | Err(_)) | Err(_) => return,
        };
        let Ok(mut text) = serde_json::to_vec(&reply) else { return };
        text.push(b'\n');
        let written = timeout(patience, writer.write_all(&text)).await;
        if last || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The peer has closed, perhaps in the middle of a line.
    End,
}

async fn next_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    let bound = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
    reader.take(bound).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        Some(b'\n') => Line::Whole(line),
        _ if line.len() >= LONGEST_LINE => Line::TooLong,
        _ => Line::End,
    })
}

async fn answer_line(shared: &Shared, line: &[u8], uid: u32) -> Reply {
    match serde_json::from_slice(line) {
        Ok(request) => answer(shared, request, uid).await,
        Err(error) => refused(format!("this is no request that the gateway knows: {error}")),
    }
}

async fn answer(shared: &Shared, request: Request, uid: u32) -> Reply {
    match request {
        Request::Status => shared.status(),
        Request::Cut => {
            tracing::info!(uid, "asked to cut the session");
            shared.cut_all().await;
            notify::status("The session was cut; nobody can connect any more.");
            Reply::Done
        }
        Request::Admit { ca, certificate, name, observes } if uid == 0 => {
            let part = if observes { Part::Watches } else { Part::Takes };
            match shared.guests.let_in(name.clone(), (&certificate, &ca), part) {
                Ok(()) => {
                    tracing::info!(%name, observes, "lets a guest in");
                    let entry = Entry::LetIn { name: &name, watches: observes };
                    shared.transcript.record(&entry);
                    Reply::Admitted { ca: shared.guests.own_ca() }
                }
                Err(error) => refused(error.to_string()),
            }
        }
        Request::Admit { .. } => {
            tracing::warn!(uid, "refused to let a guest in");
            refused(format!("only root may let others into a session, and you are uid {uid}"))
        }
        Request::Withdraw { name } if uid == 0 => withdraw(shared, &name).await,
        Request::Withdraw { .. } => {
            tracing::warn!(uid, "refused to shut a guest out");
            refused(format!("only root may shut others out of a session, and you are uid {uid}"))
        }
        Request::SetDeadline { deadline } if uid == 0 => {
            let seconds = deadline.remaining(clock::now()).as_secs();
            tracing::info!(seconds, "the session's end was moved");
            notify::extended(&deadline);
            shared.set_deadline(deadline);
            // The first is what makes the session active: dlv has attached.
            shared.keeper.begin();
            Reply::Done
        }
        Request::SetDeadline { .. } => {
            tracing::warn!(uid, "refused to move the session's end");
            refused(format!("only root may move the end of a session, and you are uid {uid}"))
        }
    }
}

async fn withdraw(shared: &Shared, name: &GuestName) -> Reply {
    match shared.guests.withdraw(name).await {
        Ok(0) => refused(format!("nobody was let in as {name}")),
        Ok(certificates) => {
            tracing::info!(%name, certificates, "shuts a guest out");
            shared.transcript.record(&Entry::Withdrawn { name });
            Reply::Done
        }
        Err(error) => refused(error.to_string()),
    }
}

fn refused(why: String) -> Reply {
    Reply::Refused { why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Given;
    use crate::{Gateway, Limits};
    use godebug_api::control::GatewayConfig;
    use godebug_api::rules::engine::{RedactRules, TranscriptValues};
    use godebug_api::{Deadline, Now, PauseBudget};
    use std::fs::File;

    /// A gateway on some free port, never run.
    fn gateway(folder: &Path) -> Gateway {
        let own = rcgen::generate_simple_self_signed(vec!["s".to_owned()]).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let config = GatewayConfig {
            awaits_client: false,
            of_core: false,
            id: "0123abcd".parse().unwrap(),
            mode: "step".parse().unwrap(),
            port: port.try_into().unwrap(),
            sources: vec!["127.0.0.1".parse().unwrap()],
            deadline: Deadline { wall_ms: u64::MAX, boot_ms: u64::MAX },
            server_name: "s".to_owned(),
            ca: own.cert.pem(),
            certificate: own.cert.pem(),
            key: own.signing_key.serialize_pem(),
            debugger_socket: "/nowhere".to_owned(),
            build: None,
            control_socket: folder.join("control.sock").to_str().unwrap().to_owned(),
            max_connections: 1,
            max_handshakes: 1,
            pause: PauseBudget { per_stop_ms: 1, per_session_ms: 1 },
            hot: godebug_api::HotLimit::default(),
            redact: RedactRules::default(),
            transcript_values: TranscriptValues::None,
            host: "h".to_owned(),
            boot: "b".to_owned(),
        };
        let given = Given {
            config,
            target_status: File::open("/proc/self/status").unwrap().into(),
            transcript: File::create(folder.join("transcript")).unwrap(),
        };
        Gateway::open(given, Limits::default()).unwrap()
    }

    #[tokio::test]
    async fn only_root_moves_the_end_and_anybody_may_cut() {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(folder.path());
        let shared = gateway.shared();
        let deadline = Deadline::after(Now { wall_ms: 1, boot_ms: 1 }, Duration::ZERO);
        let reply = answer(shared, Request::SetDeadline { deadline }, 1000).await;
        assert!(matches!(reply, Reply::Refused { why } if why.contains("uid 1000")));
        assert_ne!(shared.deadline(), deadline);
        assert_eq!(answer(shared, Request::SetDeadline { deadline }, 0).await, Reply::Done);
        assert_eq!(shared.deadline(), deadline);
        let own = rcgen::generate_simple_self_signed(vec!["g".to_owned()]).unwrap();
        let (ca, name): (_, GuestName) = (own.cert.pem(), "bob".parse().unwrap());
        let admit = || Request::Admit {
            ca: ca.clone(),
            certificate: ca.clone(),
            name: name.clone(),
            observes: true,
        };
        let reply = answer(shared, admit(), 1000).await;
        assert!(matches!(reply, Reply::Refused { why } if why.contains("uid 1000")));
        let standing = || shared.guests.standing_of(own.cert.der());
        assert_eq!(standing().unwrap().part, Part::Takes, "nobody was let in");
        assert!(matches!(answer(shared, admit(), 0).await, Reply::Admitted { .. }));
        let guest = standing().unwrap();
        assert_eq!(guest.part, Part::Watches);
        let withdraw = || Request::Withdraw { name: name.clone() };
        let reply = answer(shared, withdraw(), 1000).await;
        assert!(matches!(reply, Reply::Refused { why } if why.contains("uid 1000")));
        assert!(!guest.leave.is_cancelled());
        let (reply, ()) = tokio::join!(answer(shared, withdraw(), 0), async {
            guest.leave.cancelled().await;
            drop(guest);
        });
        assert_eq!(reply, Reply::Done);
        assert!(standing().is_none(), "one in the middle of a handshake would be let in");
        assert!(matches!(answer(shared, withdraw(), 0).await, Reply::Refused { .. }));
        assert_eq!(answer(shared, Request::Cut, 1000).await, Reply::Done);
    }

    #[tokio::test]
    async fn lines_are_bounded_and_whole() {
        async fn read(bytes: &[u8]) -> Line {
            next_line(&mut BufReader::new(bytes)).await.unwrap()
        }
        assert!(matches!(read(b"{}\nrest").await, Line::Whole(line) if line == b"{}\n"));
        assert!(matches!(read(b"{}").await, Line::End));
        assert!(matches!(read(b"").await, Line::End));
        assert!(matches!(read(&[b' '; LONGEST_LINE * 3]).await, Line::TooLong));
        let mut longest = vec![b' '; LONGEST_LINE];
        longest[LONGEST_LINE - 1] = b'\n';
        assert!(matches!(read(&longest).await, Line::Whole(_)));
    }
}
