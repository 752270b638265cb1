//! What the demo prints. Colour only where a person looks at it (<https://no-color.org> is honoured).

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Standard output.
pub(crate) struct Terminal {
    colour: bool,
    began: Instant,
    /// Sections say when they begin.
    timed: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && io::stdout().is_terminal(), began: Instant::now(), timed: false }
    }

    /// From now on sections say after how many seconds they begin.
    pub(crate) fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// Seconds since it began.
    pub(crate) fn seconds(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    #[expect(clippy::unused_self, reason = "whoever may print has the terminal")]
    fn line(&mut self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
    }

    /// The first line.
    pub(crate) fn title(&mut self, text: &str) -> Result<()> {
        self.line(&self.paint(BOLD, text))
    }

    /// Opens a section.
    pub(crate) fn section(&mut self, text: &str) -> Result<()> {
        self.line("")?;
        let after = if self.timed {
            self.paint(DIM, &format!("  after {} s", self.seconds()))
        } else {
            String::new()
        };
        self.line(&format!("{}{after}", self.paint(BOLD, text)))
    }

    /// Something that takes a while begins.
    pub(crate) fn busy(&mut self, text: &str) -> Result<()> {
        self.line(&self.paint(DIM, &format!("  … {text}")))
    }

    /// A part that is in place.
    pub(crate) fn done(&mut self, part: &str, detail: &str) -> Result<()> {
        let mark = self.paint(GREEN, "✓");
        self.line(&format!("  {mark} {part:<17} {}", self.paint(DIM, detail)))
    }

    /// A command.
    pub(crate) fn command(&mut self, text: &str) -> Result<()> {
        self.line(&format!("  {} {}", self.paint(DIM, "$"), self.paint(CYAN, text)))
    }

    /// A labelled line of evidence.
    pub(crate) fn evidence(&mut self, label: &str, text: &str) -> Result<()> {
        self.line(&format!("  {} {text}", self.paint(DIM, &format!("{label:<9}"))))
    }

    /// Text of somebody else, indented, control characters made harmless.
    pub(crate) fn block(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            let line = line.replace(|c: char| c.is_control() && c != '\t', "�");
            self.line(&format!("    {line}"))?;
        }
        Ok(())
    }

    /// It went well.
    pub(crate) fn good(&mut self, text: &str) -> Result<()> {
        self.marked(GREEN, "✓", text)
    }

    /// It did not.
    pub(crate) fn bad(&mut self, text: &str) -> Result<()> {
        self.marked(RED, "✗", text)
    }

    fn marked(&mut self, colour: &str, mark: &str, text: &str) -> Result<()> {
        for line in text.lines() {
            self.line(&format!("  {} {line}", self.paint(colour, mark)))?;
        }
        Ok(())
    }
}
