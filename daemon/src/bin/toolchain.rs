//! godebug-toolchain: the part of `godebugctl toolchain` that looks at this host and changes it. Run by
//! godebugctl, which shows to people what it prints: one document.

use godebug::toolchain::{self, Origin};
use godebug_api::Refusal;
use godebug_api::toolchain::Answer;
use godebug_core::delve::DelveVersion;
use std::process::ExitCode;

const USAGE: &str = "usage: godebug-toolchain list | plan | remove VERSION
       godebug-toolchain add VERSION proxy [URL [nosum]] | file PATH | package PATH";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(answer(&words)),
        Err(error) => Err(Refusal::failed(format!("no event loop: {error}"), "")),
    };
    let (answer, code) = match answer {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(refusal) => {
            let code = ExitCode::from(refusal.code.exit_status());
            (Answer::Error(refusal), code)
        }
    };
    match serde_json::to_string(&answer) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("godebug-toolchain: {error}"),
    }
    code
}

async fn answer(words: &[&str]) -> Result<Answer, Refusal> {
    Ok(match words {
        ["list"] => Answer::Dlvs(toolchain::list().await),
        ["plan"] => Answer::Needs(toolchain::plan().await),
        ["remove", version] => {
            Answer::Removed { path: toolchain::remove(parsed(version)?)?.display().to_string() }
        }
        ["add", version, origin @ ..] => {
            Answer::Added(toolchain::add(parsed(version)?, &parsed_origin(origin)?).await?)
        }
        _ => return Err(Refusal::usage("this program is for godebugctl to run", USAGE)),
    })
}

fn parsed(version: &str) -> Result<DelveVersion, Refusal> {
    version.parse().map_err(|_| {
        Refusal::usage("that is no version of Delve", "they look like 1.24.2; see `toolchain plan`")
    })
}

fn parsed_origin(words: &[&str]) -> Result<Origin, Refusal> {
    Ok(match words {
        ["proxy"] => Origin::Proxy { url: None, checks_sums: true },
        ["proxy", url] => Origin::Proxy { url: Some((*url).to_owned()), checks_sums: true },
        ["proxy", url, "nosum"] => {
            let url = Some((*url).to_owned()).filter(|url| !url.is_empty());
            Origin::Proxy { url, checks_sums: false }
        }
        ["file", path] => Origin::File(path.into()),
        ["package", path] => Origin::Package(path.into()),
        _ => return Err(Refusal::usage("this program is for godebugctl to run", USAGE)),
    })
}
