//! `godebugctl`: the person's side of godebug. Asks the daemon for sessions, shows them, and
//! connects an IDE to them.

mod agent;
mod approval;
mod attach;
mod audit;
mod cli;
mod completion;
mod connect;
mod core;
mod countdown;
mod detach;
mod export;
mod far;
mod foreground;
mod held;
mod ide;
mod keys;
mod live;
mod manager;
mod many;
mod output;
mod own_containers;
mod peer;
mod person;
mod ports;
mod question;
mod report;
mod request;
mod review;
mod rules;
mod sessions;
mod share;
mod signals;
mod snapshot;
mod symbols;
mod terminal;
mod tickets;
mod toolchain;
mod transcript;
mod tunnel;
mod verify;
mod waiting;
mod watch;

use cli::{Audit, Cli, Command, Rules};
use far::Host;
use godebug_api::Refusal;
use output::Output;
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    keys::keep_memory_private();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return ExitCode::from(status),
    };
    let output = Output::new(cli.json);
    let cli = match cli.of_user() {
        Ok(cli) => cli,
        Err(refusal) => return ExitCode::from(output.refusal(&refusal)),
    };
    match elsewhere(&output, &cli) {
        Ok(Some(status)) => return ExitCode::from(status),
        Ok(None) => {}
        Err(refusal) => return ExitCode::from(output.refusal(&refusal)),
    }
    match start(&output, &cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => ExitCode::from(output.refusal(&refusal)),
    }
}

/// Does what `-H` asks for where that is not done from here; gives the exit status then.
fn elsewhere(output: &Output, cli: &Cli) -> Result<Option<u8>, Refusal> {
    let Some(named) = &cli.host else { return Ok(None) };
    let hosts =
        match named.strip_prefix('@') {
            Some(path) => many::in_file(path)?,
            None => named.split(',').map(str::parse).collect::<Result<Vec<Host>, _>>().map_err(
                |error| Refusal::usage(format!("-H: {error}"), "several are separated by commas"),
            )?,
        };
    let command = &cli.command;
    let words = cli::without_host(std::env::args().skip(1));
    match hosts.as_slice() {
        [host] if command.runs_there() => {
            let on_terminal = !cli.json && std::io::stdin().is_terminal();
            host.run(&words, on_terminal).map(Some)
        }
        [host] => {
            if cli.unasked { host.unasked() } else { host.clone() }.choose();
            Ok(None)
        }
        _ if command.may_be_asked_of_many() => {
            let is_list = matches!(command, Command::List { pending: false });
            many::ask(output, &hosts, &words, is_list).map(Some)
        }
        _ => Err(Refusal::usage(
            "only list, inspect, doctor and stop can be asked of several hosts",
            "name one host",
        )),
    }
}

fn start(output: &Output, command: &Command) -> Result<(), Refusal> {
    // What polkit of another host wants to know, nobody here can be asked.
    let here = Host::chosen().is_none();
    let _agent = (here && command.may_be_authenticated()).then(agent::Agent::on_this_terminal);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Refusal::failed(format!("this program cannot start its event loop: {error}"), "")
    })?;
    let result = runtime.block_on(async {
        // One host of several that hangs must not keep the answers of the others.
        let is_quick = !matches!(command, Command::Stop(_));
        match Host::chosen().and_then(|host| Some((host, host.patience(is_quick)?))) {
            None => run(output, command).await,
            Some((host, patience)) => {
                let silent = || {
                    let message =
                        format!("{} has not answered for {} s", host.as_str(), patience.as_secs());
                    Refusal::host(message, format!("ask it alone: godebugctl -H {}", host.as_str()))
                };
                tokio::time::timeout(patience, run(output, command)).await.map_err(|_| silent())?
            }
        }
    });
    // Whatever is still going on (a name being resolved) must not hold up the exit.
    runtime.shutdown_background();
    result
}

async fn run(output: &Output, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Attach(arguments) => attach::attach(output, arguments).await,
        Command::Core(arguments) => core::core(output, arguments).await,
        Command::Exec(arguments) => attach::attach(output, &arguments.as_attach()).await,
        Command::Connect(arguments) => connect::connect(output, arguments).await,
        Command::Snapshot(arguments) => snapshot::snapshot(output, arguments).await,
        Command::Record(arguments) => snapshot::record(output, arguments).await,
        Command::Goroutines(arguments) => snapshot::goroutines(output, arguments).await,
        Command::Heap(arguments) => snapshot::heap(output, arguments).await,
        Command::List { pending } => sessions::list(output, *pending).await,
        Command::Claim(arguments) => attach::claim(output, arguments).await,
        Command::Approve { id, yes } => approval::approve(output, id, *yes).await,
        Command::Deny { id, reason } => approval::deny(output, id, reason).await,
        Command::Show { id } => sessions::show(output, id).await,
        Command::Extend(arguments) => sessions::extend(output, arguments).await,
        Command::Share(arguments) => share::share(output, arguments).await,
        Command::Stop(arguments) => sessions::stop(output, arguments).await,
        Command::Inspect { unit, pid } => sessions::inspect(output, unit, *pid).await,
        Command::Doctor { unit } => sessions::doctor(output, unit.as_ref()).await,
        Command::Toolchain(wanted) => toolchain::toolchain(output, wanted),
        Command::Watch { id } => transcript::watch(output, id).await,
        Command::Audit(Audit::List(wanted)) => audit::list(output, wanted).await,
        Command::Audit(Audit::Show { id }) => audit::show(output, id).await,
        Command::Audit(Audit::Verify { files, checkpoint, key }) => {
            verify::verify(output, files, checkpoint, *key)
        }
        Command::Audit(Audit::Export { ids, format, output: file }) => {
            export::export(output, ids, *format, file.as_deref()).await
        }
        Command::Audit(Audit::Review { id, note }) => match (id, note) {
            (Some(id), Some(note)) => review::close(output, id, note).await,
            _ => review::list(output).await,
        },
        Command::Audit(Audit::Key) => verify::key(output),
        Command::Rules(Rules::Check { files }) => rules::check(output, files),
        Command::Rules(Rules::Explain(question)) => rules::explain(output, question).await,
        Command::Completion { shell } => completion::script(output, *shell),
        Command::Complete { words } => {
            completion::names(words).await;
            Ok(())
        }
    }
}
