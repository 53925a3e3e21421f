//! `godebugctl snapshot` and `goroutines` as a person and a script see them, with a daemon whose images
//! answer what the test wants.
#![allow(clippy::unwrap_used)]

mod fake;
mod pki;

use fake::Host;
use serde_json::{Value, json};

fn hit(value: &str) -> Value {
    let place = json!({ "function": "main.priceOf", "file": "/src/shop/main.go", "line": 45 });
    json!({
        "time": "2026-01-01T00:00:00Z", "unit": "shop.service", "location": place, "goroutine": 7,
        "pause_ms": 0.75, "stack": [place],
        "variables": [{ "name": "o", "type": "string", "value": value }],
    })
}

async fn answering(lines: &[Value]) -> Host {
    let host = Host::start().await;
    host.book.lock().unwrap().lines = lines.iter().map(|line| format!("{line}\n")).collect();
    host
}

#[tokio::test]
async fn hits_are_shown_as_they_come_and_the_session_is_ended() {
    let done = json!({ "done": { "hits": 2, "dropped": 0 } });
    let host = answering(&[hit("\"one\""), hit("\"two\""), done]).await;
    let words = ["snapshot", "shop", "--at", "main.priceOf", "--count", "2", "--expr", "o"];
    let (status, out, _) = host.run(&words).await;
    assert_eq!(status, 0, "{out}");
    assert!(
        out.contains("goroutine 7 at main.priceOf (main.go:45)  (stopped for 0.75 ms)"),
        "{out}"
    );
    assert!(out.contains("o string = \"one\"") && out.contains("o string = \"two\""), "{out}");
    let (status, out, _) = host.run(&[&["--json"], &words[..]].concat()).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((status, lines), (0, vec![hit("\"one\""), hit("\"two\"")]));
    let book = host.book.lock().unwrap();
    assert_eq!(book.stops, 2);
    let asked = serde_json::to_value(book.image.as_ref().unwrap()).unwrap();
    let wanted = json!({ "at": ["main.priceOf"], "expressions": ["o"], "condition": null, "count": 2,
        "stack": 20, "every_ms": 100 });
    assert_eq!(asked["task"]["snapshot"], wanted);
    assert_eq!((&asked["max_pause_ms"], &asked["patience_s"]), (&json!(50), &json!(30)));
}

#[tokio::test]
async fn what_could_not_be_seen_has_its_own_exit_status() {
    let error = json!({ "code": "usage", "message": "no such place", "remedy": "try main.f" });
    let host = answering(&[json!({ "error": error })]).await;
    let (status, out, err) = host.run(&["--json", "snapshot", "shop", "--at", "main.g"]).await;
    assert_eq!(status, 2, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["error"], error);
    assert!(err.contains("no such place") && err.contains("try main.f"), "{err}");

    let done = json!({ "done": { "hits": 1, "dropped": 3, "because": "no more in 30s" } });
    let host = answering(&[hit("1"), done]).await;
    let (status, _, err) = host.run(&["snapshot", "shop", "--at", "main.f"]).await;
    assert_eq!(status, 6, "{err}");
    assert!(err.contains("3 for which the condition is false"), "{err}");

    let host = answering(&[]).await;
    let (status, _, err) = host.run(&["goroutines", "shop"]).await;
    assert_eq!(status, 6, "{err}");
    assert!(err.contains("without an answer"), "{err}");
    let (status, _, _) = host.run(&["snapshot", "refused"]).await;
    assert_eq!(status, 3);
}

#[tokio::test]
async fn nothing_that_the_service_chose_acts_on_the_terminal() {
    let host = answering(&[hit("\u{1b}[2J\u{202e}\u{9b}31m")]).await;
    for words in [&["snapshot", "shop"][..], &["--json", "snapshot", "shop"]] {
        let (status, out, _) = host.run(words).await;
        assert_eq!(status, 0, "{out}");
        let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.chars().any(acts), "{out:?}");
    }
    let host = answering(&[json!({ "nonsense": 1 })]).await;
    let (status, out, err) = host.run(&["snapshot", "shop"]).await;
    assert!(
        status == 1 && out.is_empty() && err.contains("not understood"),
        "{status} {out} {err}"
    );
}
