//! Who is not let in: strangers on the network, and whoever comes without the session's own
//! certificate or after its end. No byte of theirs reaches dlv.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::{
    Host, Port,
    jsonrpc::JsonRpcClient,
    scenario::Scenario,
    tls::{self, Identity},
};

use crate::support::{
    SOON, Session, TicketFile, connect_line, leaves_nothing, read_to_end, refused, start,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("nobody_without_the_certificate_reaches_the_debugger", without_certificate)
        .main()
        .shared(),
    Scenario::new("ticket_of_an_ended_session_opens_nothing", ended_ticket).shared(),
    Scenario::new("busy_connection_is_cut_when_the_time_is_over", cut_while_busy).shared(),
];

fn without_certificate(host: &Host) -> Result<()> {
    start(host, "app@1")?;
    leaves_nothing(host, &["myapp", "app@1"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let other = Session::for_laptop(host, "app@1", "60s")?;
        ensure!(host.port_scan_from_stranger(session.port)? == Port::Filtered);
        ensure!(host.port_scan_from_laptop_v6(session.port)? == Port::Filtered);
        let own = session.identity(host)?;
        let strangers: [(&str, Attempt<'_>); 6] = [
            ("no certificate", Box::new(|| over_tls(host, &session, &own, None))),
            (
                "another session's certificate",
                Box::new(|| over_tls(host, &session, &own, other.identity(host)?.client)),
            ),
            ("a JSON-RPC call in the clear", Box::new(|| plain(host, &session, JSON_RPC))),
            ("a DAP request in the clear", Box::new(|| plain(host, &session, DAP))),
            ("TLS 1.2", Box::new(|| old_tls(host, &session))),
            ("nothing at all, then the end", Box::new(|| silent(host, &session))),
        ];
        for (who, attempt) in strangers {
            let before = session.traffic(host)?;
            attempt().with_context(|| format!("coming with {who}"))?;
            let after = session.traffic(host)?;
            ensure!(
                (after.accepted, after.bytes, after.at_debugger) == (0, 0, 0),
                "{who} got through: {after:?}"
            );
            ensure!(after.refused > before.refused, "{who} was not counted: {after:?}");
        }
        the_right_one_is_let_in(host, &session)?;
        ensure!(other.traffic(host)?.accepted == 0);
        session.stop(host)?;
        other.stop(host)?;
        ensure!(host.port_scan_from_laptop(session.port)? == Port::Filtered);
        Ok(())
    })?;
    host.ok("systemctl stop app@1").map(drop)
}

type Attempt<'a> = Box<dyn Fn() -> Result<()> + 'a>;

const JSON_RPC: &[u8] = br#"{"method":"RPCServer.State","params":[{"NonBlocking":true}],"id":1}"#;
const DAP: &[u8] =
    b"Content-Length: 60\r\n\r\n{\"seq\":1,\"type\":\"request\",\"command\":\"initialize\",\"arguments\":{}}";

/// The same counters do count when somebody is let in.
fn the_right_one_is_let_in(host: &Host, session: &Session) -> Result<()> {
    let stream = host.connect_from_laptop(session.port)?;
    let mut rpc = JsonRpcClient::new(tls::connect(stream, &session.identity(host)?)?);
    ensure!(rpc.state()?["Running"] == true);
    let now = session.traffic(host)?;
    ensure!(
        now.accepted == 1 && now.clients == 1 && now.at_debugger == 1 && now.bytes > 0,
        "the counters do not show who is there: {now:?}"
    );
    Ok(())
}

fn over_tls(
    host: &Host,
    session: &Session,
    own: &Identity,
    client: Option<(String, String)>,
) -> Result<()> {
    let stream = host.connect_from_laptop(session.port)?;
    // The refusal may come as late as the first read.
    let Ok(mut tls) = tls::connect(stream, &Identity { client, ..own.clone() }) else {
        return Ok(());
    };
    let _ = tls.write_all(JSON_RPC);
    let answer = read_to_end(&mut tls)?;
    ensure!(answer.is_empty(), "an answer: {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn plain(host: &Host, session: &Session, bytes: &[u8]) -> Result<()> {
    let mut stream = connection(host, session)?;
    stream.write_all(bytes).context("sending")?;
    let answer = read_to_end(&mut stream)?;
    ensure!(answer.is_empty() || answer[0] == ALERT, "an answer: {answer:?}");
    Ok(())
}

const ALERT: u8 = 21;
const PROTOCOL_VERSION: u8 = 70;

/// A ClientHello of TLS 1.2, as old programs send it.
fn old_tls(host: &Host, session: &Session) -> Result<()> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // the group secp256r1
        0, 13, 0, 4, 0, 2, 4, 3, // ecdsa_secp256r1_sha256
        0, 11, 0, 2, 1, 0, // uncompressed points
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    hello.extend(u16::try_from(extensions.len())?.to_be_bytes());
    hello.extend(extensions);
    let length = u16::try_from(hello.len())?;
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(hello);
    let mut stream = connection(host, session)?;
    stream.write_all(&record).context("sending")?;
    let answer = read_to_end(&mut stream)?;
    ensure!(
        answer.first() == Some(&ALERT) && answer.get(6) == Some(&PROTOCOL_VERSION),
        "not the alert protocol_version: {answer:?}"
    );
    Ok(())
}

fn silent(host: &Host, session: &Session) -> Result<()> {
    let stream = connection(host, session)?;
    // The gateway waits 5 s for a handshake.
    ensure!(read_to_end(&stream)?.is_empty(), "the gateway spoke first");
    Ok(())
}

fn connection(host: &Host, session: &Session) -> Result<TcpStream> {
    let stream = host.connect_from_laptop(session.port)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn ended_ticket(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let first = Session::for_laptop(host, "myapp", "60s")?;
        let (ticket, identity) = (first.ticket(host)?, first.identity(host)?);
        first.stop(host)?;
        let replay = |status| -> Result<()> {
            let file = TicketFile::new(&ticket, 0o600)?;
            let output = host.laptop(&connect_line(host, &file))?;
            ensure!(output.status == status, "wanted exit status {status}: {output}");
            Ok(())
        };
        // Nobody is there any more.
        ensure!(host.port_scan_from_laptop(first.port)? == Port::Filtered);

        // Another session on the same port is not for the old ticket, whatever CA one believes in.
        let second = Session::for_laptop(host, "myapp", "60s")?;
        ensure!(second.port == first.port, "the port is not free again");
        replay(3)?;
        over_tls(host, &second, &second.identity(host)?, identity.client.clone())?;
        let traffic = second.traffic(host)?;
        ensure!((traffic.accepted, traffic.bytes, traffic.at_debugger) == (0, 0, 0), "{traffic:?}");
        second.stop(host)?;

        let third = Session::for_laptop(host, "myapp", "1s")?;
        let ticket = third.ticket(host)?;
        third.ends(host, "expired", SOON)?;
        let file = TicketFile::new(&ticket, 0o600)?;
        let why = refused(host.laptop(&connect_line(host, &file))?, 3, "refused")?;
        ensure!(why.contains("expired"), "{why}");
        Ok(())
    })
}

fn cut_while_busy(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "4s")?;
        let stream = host.connect_from_laptop(session.port)?;
        let began = Instant::now();
        let tls = tls::connect(stream, &session.identity(host)?)?;
        // One thread, so that sending never waits for reading: each call is answered at once.
        let busy = std::thread::spawn(move || transfers_until_cut(tls));
        session.ends(host, "expired", SOON)?;
        let closed = Instant::now();
        let (last, calls) =
            busy.join().map_err(|_| anyhow::anyhow!("the busy client panicked"))??;
        ensure!(last < closed, "bytes came after the session was closed");
        ensure!(calls > 20, "the connection was not busy: {calls} calls");
        let lasted = last - began;
        ensure!(lasted > Duration::from_secs(2), "it was cut long before its time: {lasted:?}");
        Ok(())
    })
}

/// Calls and calls; gives when the last answer came, and how many.
fn transfers_until_cut(mut tls: impl Read + Write) -> Result<(Instant, u32)> {
    let (mut last, mut calls) = (Instant::now(), 0);
    let mut chunk = [0; 4096];
    loop {
        if tls.write_all(JSON_RPC).and_then(|()| tls.flush()).is_err() {
            return Ok((last, calls));
        }
        match tls.read(&mut chunk) {
            Ok(count) if count > 0 => (last, calls) = (Instant::now(), calls + 1),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("the connection was left open and silent")
            }
            _ => return Ok((last, calls)),
        }
    }
}
