//! Where the viewer is, and what a key does there. Pure: `live` hands it keys, `draw` shows it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    flow::FlowId,
    survey::activity::{GroupBy, Rank},
};

/// Lines or rows that a page key moves by.
const PAGE: usize = 10;

/// What is looked at, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) by: GroupBy,
    pub(super) rank: Rank,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) row: Cursor<String>,
    pub(super) depth: Depth,
}

/// How far in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Depth {
    /// Rows.
    #[default]
    Rows,
    /// The flows of the row of this name.
    Flows { row: String, flow: Cursor<FlowId> },
    /// The story of one of them.
    Story { row: String, flow: Cursor<FlowId>, id: FlowId, line: usize },
}

/// A choice in a list that changes: it stays with what was chosen, and where that is gone, at its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cursor<K> {
    chosen: Option<K>,
    place: usize,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self { chosen: None, place: 0 }
    }
}

impl<K: PartialEq + Clone> Cursor<K> {
    /// Where it is; nowhere in an empty list.
    pub(super) fn place(&self, keys: &[K]) -> Option<usize> {
        let found = keys.iter().position(|key| self.chosen.as_ref() == Some(key));
        found.or_else(|| Some(self.place.min(keys.len().checked_sub(1)?)))
    }

    fn go(&mut self, keys: &[K], step: Step) {
        let Some(place) = self.place(keys) else { return };
        self.place = step.from(place, keys.len());
        self.chosen = keys.get(self.place).cloned();
    }
}

/// What is on the screen to choose from.
#[derive(Clone, Debug)]
pub(super) enum Choices {
    Rows(Vec<String>),
    Flows(Vec<FlowId>),
    /// Lines of a story.
    Lines(usize),
}

/// What is to be done beside looking elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    /// Look again from now on: a pause is over.
    Resume,
    /// Ask for the story of the flow.
    Ask(FlowId),
}

#[derive(Clone, Copy)]
enum Step {
    Up(usize),
    Down(usize),
    First,
    Last,
}

impl Step {
    fn of(key: KeyCode) -> Option<Self> {
        Some(match key {
            KeyCode::Up | KeyCode::Char('k') => Self::Up(1),
            KeyCode::Down | KeyCode::Char('j') => Self::Down(1),
            KeyCode::PageUp => Self::Up(PAGE),
            KeyCode::PageDown => Self::Down(PAGE),
            KeyCode::Home | KeyCode::Char('g') => Self::First,
            KeyCode::End | KeyCode::Char('G') => Self::Last,
            _ => return None,
        })
    }

    fn from(self, place: usize, length: usize) -> usize {
        let last = length.saturating_sub(1);
        match self {
            Self::Up(steps) => place.saturating_sub(steps),
            Self::Down(steps) => place.saturating_add(steps).min(last),
            Self::First => 0,
            Self::Last => last,
        }
    }
}

impl View {
    pub(super) fn new(by: GroupBy, rank: Rank) -> Self {
        Self { by, rank, ..Self::default() }
    }

    /// After a key.
    pub(super) fn press(mut self, key: KeyEvent, choices: &Choices) -> (Self, Effect) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            let effect = if key.code == KeyCode::Char('c') { Effect::Quit } else { Effect::Nothing };
            return (self, effect);
        }
        // Any key but the one that ends it all closes the help.
        if std::mem::take(&mut self.help) && key.code != KeyCode::Char('q') {
            return (self, Effect::Nothing);
        }
        if let Some(step) = Step::of(key.code) {
            self.go(step, choices);
            return (self, Effect::Nothing);
        }
        let mut effect = Effect::Nothing;
        match key.code {
            KeyCode::Char('q') => effect = Effect::Quit,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                if !self.paused {
                    effect = Effect::Resume;
                }
            }
            KeyCode::Enter | KeyCode::Right => effect = self.enter(choices),
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => self.leave(),
            code if self.depth == Depth::Rows => self.arrange(code),
            _ => {}
        }
        (self, effect)
    }

    fn go(&mut self, step: Step, choices: &Choices) {
        match (&mut self.depth, choices) {
            (Depth::Rows, Choices::Rows(names)) => self.row.go(names, step),
            (Depth::Flows { flow, .. }, Choices::Flows(ids)) => flow.go(ids, step),
            (Depth::Story { line, .. }, Choices::Lines(lines)) => *line = step.from(*line, *lines),
            // What was on the screen is no longer where the viewer is.
            _ => {}
        }
    }

    fn enter(&mut self, choices: &Choices) -> Effect {
        match (&self.depth, choices) {
            (Depth::Rows, Choices::Rows(names)) => {
                let Some(row) = self.row.place(names).and_then(|place| names.get(place)).cloned() else {
                    return Effect::Nothing;
                };
                self.row.chosen = Some(row.clone());
                self.depth = Depth::Flows { row, flow: Cursor::default() };
                Effect::Nothing
            }
            (Depth::Flows { row, flow }, Choices::Flows(ids)) => {
                let Some(id) = flow.place(ids).and_then(|place| ids.get(place)).copied() else {
                    return Effect::Nothing;
                };
                let flow = Cursor { chosen: Some(id), ..flow.clone() };
                self.depth = Depth::Story { row: row.clone(), flow, id, line: 0 };
                Effect::Ask(id)
            }
            _ => Effect::Nothing,
        }
    }

    fn leave(&mut self) {
        self.depth = match std::mem::take(&mut self.depth) {
            Depth::Rows | Depth::Flows { .. } => Depth::Rows,
            Depth::Story { row, flow, .. } => Depth::Flows { row, flow },
        };
    }

    /// What the rows are, and their order.
    fn arrange(&mut self, key: KeyCode) {
        let by = match key {
            KeyCode::Char('h') => GroupBy::Host,
            KeyCode::Char('w') => GroupBy::Workload,
            KeyCode::Char('u') => GroupBy::Rule,
            KeyCode::Tab => match self.by {
                GroupBy::Host => GroupBy::Workload,
                GroupBy::Workload => GroupBy::Rule,
                GroupBy::Rule => GroupBy::Host,
            },
            _ => self.by,
        };
        if by != self.by {
            (self.by, self.row) = (by, Cursor::default());
        }
        self.rank = match key {
            KeyCode::Char('f') => Rank::Flows,
            KeyCode::Char('r') => Rank::Requests,
            KeyCode::Char('b') => Rank::Bytes,
            KeyCode::Char('l') => Rank::FirstByte,
            KeyCode::Char('d') => Rank::Duration,
            KeyCode::Char('x') => Rank::Refused,
            KeyCode::Char('n') => Rank::Name,
            _ => self.rank,
        };
    }
}

#[cfg(test)]
mod tests;
