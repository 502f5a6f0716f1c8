//! `lockmesh top`: members, locks, queues and rates of a running mesh, in the terminal.

mod draw;
mod state;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockmesh::observe::{ObserveError, Observer, Survey};
use lockmesh_cli::node::Signals;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc as channel;

use crate::look::{Failure, Target, no_answer, status};
use state::{Then, Top};

/// The width of a printed snapshot, in columns.
const WIDTH: u16 = 100;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print one snapshot as text and exit.
    #[arg(long)]
    once: bool,
    /// Refresh interval, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    every_ms: u64,
    /// Maximum number of keys to read from each voter.
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
}

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let observer = args.target.observer()?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let every = Duration::from_millis(args.every_ms);
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || !is_terminal {
        return once(observer, limit, every).await.map_err(no_answer);
    }
    live(observer, limit, every).await.map_err(no_answer)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a snapshot of two surveys, which has rates. Returns the exit code of `lockmesh status`.
async fn once(
    mut observer: Observer,
    limit: usize,
    every: Duration,
) -> Result<ExitCode, ObserveError> {
    let mut top = Top::default();
    top.take(observer.survey_with_locks(limit).await?, Instant::now());
    tokio::time::sleep(every).await;
    let survey = observer.survey_with_locks(limit).await?;
    let code = status::exit_code(&survey);
    top.take(survey, Instant::now());
    print!("{}", draw::to_text(&top, WIDTH));
    Ok(code)
}

/// Runs until the user quits or a signal arrives. The terminal is restored on every way out,
/// including a panic.
async fn live(observer: Observer, limit: usize, every: Duration) -> io::Result<()> {
    let signals = Signals::new(true)?;
    let mut terminal = ratatui::try_init()?;
    let _restored = Restored;
    show(&mut terminal, observer, limit, every, signals).await
}

struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

type Look = Result<Survey, ObserveError>;

async fn show(
    terminal: &mut DefaultTerminal,
    mut observer: Observer,
    limit: usize,
    every: Duration,
    mut signals: Signals,
) -> io::Result<()> {
    let mut keys = keys();
    let (tell, mut looks) = channel::channel::<Look>(1);
    let looker = tokio::spawn(async move {
        loop {
            let look = observer.survey_with_locks(limit).await;
            if tell.send(look).await.is_err() {
                return;
            }
            tokio::time::sleep(every).await;
        }
    });
    let mut top = Top::default();
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            draw::draw(&top, area, frame.buffer_mut());
        })?;
        tokio::select! {
            look = looks.recv() => match look {
                Some(Ok(survey)) => top.take(survey, Instant::now()),
                Some(Err(error)) => top.fail(error.to_string()),
                None => return Err(io::Error::other("nobody looks any more")),
            },
            key = keys.recv() => match key {
                Some(Event::Key(key)) => if top.press(key) == Then::Quit { break },
                Some(_) => {}
                None => return Err(io::Error::other("the keyboard is gone")),
            },
            _ = signals.next() => break,
        }
    }
    looker.abort();
    Ok(())
}

/// Reads the keyboard in its own thread, which ends with the process.
fn keys() -> channel::Receiver<Event> {
    let (tell, told) = channel::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    told
}
