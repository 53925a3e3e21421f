//! Mode `observe`: who takes the images is asked what has become of the target for them, and the transcript
//! has it. Whoever only looks at images cannot leave the target standing, so nobody has to keep it running.

use crate::gateway::Shared;
use crate::protocol::Protocol;
use crate::protocol::framing::{Framing, LONGEST_ANSWER};
use crate::transcript::Entry;
use godebug_api::image::{NEWS_METHOD, NEWS_PATIENCE, NewsAnswer};
use serde::Deserialize;
use serde_json::json;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// Until it is tried again, when there was no answer.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes down every image for as long as it is polled.
pub(crate) async fn record(shared: Arc<Shared>) {
    let mut since = 0;
    loop {
        if let Err(error) = listen(&shared, &mut since).await {
            tracing::debug!(%error, "the news of images");
        }
        sleep(PAUSE).await;
    }
}

async fn listen(shared: &Shared, since: &mut u64) -> io::Result<()> {
    let mut asking = Asking::connect(&shared.debugger_socket).await?;
    loop {
        let answer = asking.since(*since).await?;
        *since = answer.number;
        for news in &answer.news {
            shared.keeper.imaged(Duration::from_secs_f64(news.pause_ms.clamp(0.0, 1e9) / 1000.0));
            shared.transcript.record(&Entry::Image { pause_ms: news.pause_ms, place: &news.place });
        }
    }
}

struct Asking {
    stream: UnixStream,
    framing: Framing,
}

#[derive(Deserialize)]
struct Answer {
    result: NewsAnswer,
}

impl Asking {
    async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self { stream, framing: Framing::new(Protocol::JsonRpc, LONGEST_ANSWER) })
    }

    async fn since(&mut self, since: u64) -> io::Result<NewsAnswer> {
        let question = json!({ "method": NEWS_METHOD, "params": [{ "since": since }], "id": 1 });
        self.stream.write_all(format!("{question}\n").as_bytes()).await?;
        timeout(2 * NEWS_PATIENCE, self.answer()).await?
    }

    async fn answer(&mut self) -> io::Result<NewsAnswer> {
        let unclear = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut buffer = vec![0; 16 << 10];
        loop {
            let next = self.framing.next().map_err(|error| unclear(error.to_string()))?;
            if let Some(frame) = next {
                let answer: Answer = serde_json::from_slice(frame.body)
                    .map_err(|error| unclear(error.to_string()))?;
                return Ok(answer.result);
            }
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.framing.push(&buffer[..count]);
        }
    }
}
