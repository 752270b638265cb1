//! The live view: keys, answers and time, one loop. The terminal is as it was whatever ends it.

use std::{mem::ManuallyDrop, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use crossterm::{
    cursor::Show,
    event::{Event, EventStream, KeyEvent, KeyEventKind},
    execute,
};
use jiff::Timestamp;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_stream::StreamExt as _;

use super::{
    draw::{Content, Scene, draw},
    view::{Choices, Depth, Effect, View},
    watch::Watch,
};
use crate::{
    cli::{
        args::Top,
        flow::story,
        flows::asking::{Roles, Told},
        output,
    },
    flow::{FlowId, FlowQuery},
};

/// Shows it until somebody quits, or a signal ends it.
pub(super) async fn run(
    roles: Roles,
    watch: Watch,
    interval: Duration,
    arguments: &Top,
) -> anyhow::Result<ExitCode> {
    let subject = if roles.is_cluster() { "the cluster" } else { "this machine" };
    let mut live = Live {
        roles: Arc::new(roles),
        watch,
        view: View::new(arguments.by, arguments.sort),
        subject,
        story: String::new(),
        trouble: Vec::new(),
        asked: JoinSet::new(),
        asking_flows: false,
        asking_story: false,
    };
    // Who is not there at all is an error like with any verb, and no screen of it.
    let asked = Timestamp::now();
    let told = live.roles.ask_all(&live.watch.question(asked)).await;
    live.flows(asked, Ok(told?));
    let mut signals = Signals::new()?;
    let mut ticks = time::interval_at(time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::open()?;
    let mut events = EventStream::new();
    loop {
        let choices = live.draw(&mut screen)?;
        tokio::select! {
            event = events.next() => match event.context("the terminal is gone")?? {
                Event::Key(key) if key.kind != KeyEventKind::Release && live.press(key, &choices) => {
                    return Ok(ExitCode::SUCCESS);
                }
                // Another size is drawn like anything else.
                _ => {}
            },
            // Nobody is asked for a while: there is none.
            Some(answer) = live.asked.join_next() => live.take(answer.context("asking went wrong")?),
            _ = ticks.tick() => live.ask(),
            signal = signals.next() => return Ok(ExitCode::from(128 + signal)),
        }
    }
}

/// What was asked for on the way.
enum Answer {
    Flows(Timestamp, anyhow::Result<Told>),
    Story(FlowId, anyhow::Result<Told>),
}

struct Live {
    roles: Arc<Roles>,
    watch: Watch,
    view: View,
    subject: &'static str,
    /// Of the flow that the view is at.
    story: String,
    trouble: Vec<String>,
    /// One question of each kind at a time.
    asked: JoinSet<Answer>,
    asking_flows: bool,
    asking_story: bool,
}

impl Live {
    /// Draws, and says what keys mean from then on.
    fn draw(&self, screen: &mut Screen) -> anyhow::Result<Choices> {
        let snapshot = self.watch.activity.snapshot(self.view.by, self.view.rank);
        let content = match &self.view.depth {
            Depth::Rows => Content::Rows,
            Depth::Flows { row, .. } => Content::Flows {
                flows: self.watch.activity.flows(self.view.by, row),
                places: self.roles.is_cluster(),
            },
            Depth::Story { .. } => Content::Story(&self.story),
        };
        let scene = Scene {
            view: &self.view,
            subject: self.subject,
            snapshot: snapshot.as_ref(),
            content,
            trouble: &self.trouble,
        };
        screen.0.draw(|frame| draw(frame, &scene))?;
        Ok(scene.choices())
    }

    /// Whether that was all.
    fn press(&mut self, key: KeyEvent, choices: &Choices) -> bool {
        let (view, effect) = std::mem::take(&mut self.view).press(key, choices);
        self.view = view;
        match effect {
            Effect::Nothing => {}
            Effect::Quit => return true,
            Effect::Resume => {
                self.watch.restart();
                self.ask();
            }
            Effect::Ask(id) => {
                "asking …".clone_into(&mut self.story);
                self.ask_story(id);
            }
        }
        false
    }

    /// Asks for what the view shows, unless an answer is still to come.
    fn ask(&mut self) {
        if self.view.paused {
            return;
        }
        if let Depth::Story { id, .. } = self.view.depth {
            self.ask_story(id);
        }
        if std::mem::replace(&mut self.asking_flows, true) {
            return;
        }
        let asked = Timestamp::now();
        let query = self.watch.question(asked);
        self.send(query, move |told| Answer::Flows(asked, told));
    }

    fn ask_story(&mut self, id: FlowId) {
        if !std::mem::replace(&mut self.asking_story, true) {
            self.send(FlowQuery::of(&[id]), move |told| Answer::Story(id, told));
        }
    }

    fn send(
        &mut self,
        query: FlowQuery,
        answer: impl FnOnce(anyhow::Result<Told>) -> Answer + Send + 'static,
    ) {
        let roles = Arc::clone(&self.roles);
        self.asked.spawn(async move { answer(roles.ask_all(&query).await) });
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Flows(asked, told) => {
                self.asking_flows = false;
                self.flows(asked, told);
            }
            Answer::Story(id, told) => {
                self.asking_story = false;
                match self.view.depth {
                    Depth::Story { id: shown, .. } if shown == id => self.tell(told),
                    // The viewer went on to another one meanwhile.
                    Depth::Story { id: shown, .. } => self.ask_story(shown),
                    Depth::Rows | Depth::Flows { .. } => {}
                }
            }
        }
    }

    fn flows(&mut self, asked: Timestamp, told: anyhow::Result<Told>) {
        if self.view.paused {
            return;
        }
        self.trouble = match told {
            Ok(Told { flows, missing }) => {
                self.watch.answer(asked, flows);
                missing.iter().map(output::message).collect()
            }
            Err(error) => vec![format!("what is shown is older: {}", output::message(&error))],
        };
    }

    fn tell(&mut self, told: anyhow::Result<Told>) {
        match told {
            Ok(Told { flows, .. }) => {
                if let Some(flow) = flows.first() {
                    self.story = story::tell(flow);
                } else {
                    "it is no longer known: the oldest of those that ended made room for others"
                        .clone_into(&mut self.story);
                }
            }
            Err(error) => self.story = output::message(&error),
        }
    }
}

/// The signals that end it. Without this, the terminal would stay as the view wants it.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => 1,
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}

/// The terminal; dropping it leaves it as it was. A panic does, too, before it says anything.
///
/// [`DefaultTerminal`] itself is not dropped: it would complain on stderr that it cannot show the cursor of a terminal that is gone, and
/// where stderr is that terminal, complaining is a panic.
struct Screen(ManuallyDrop<DefaultTerminal>);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        let opened = ratatui::try_init();
        if opened.is_err() {
            // It may have come half the way.
            close();
        }
        let opened =
            opened.context("this terminal has no live view: -o json, or a pipe, prints what it shows");
        Ok(Self(ManuallyDrop::new(opened?)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        close();
    }
}

fn close() {
    // A terminal that is gone needs nothing.
    drop(execute!(std::io::stdout(), Show));
    drop(ratatui::try_restore());
}
