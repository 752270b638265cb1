//! A screen as HTML, with its colours: a browser makes the picture of it.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

/// The first sixteen colours as dark terminals have them today, each readable on [`BACKGROUND`].
const COLOURS: [&str; 16] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681",
    "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];
const FOREGROUND: &str = "#d1d7e0";
const BACKGROUND: &str = "#0d1117";

/// A page with nothing but the screen, in an element `#screen` as large as it.
pub(super) fn page(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let mut html = format!(
        "<!doctype html><meta charset=utf-8><style>\
         body {{ margin: 0; background: {BACKGROUND} }}\
         #screen {{ display: inline-block; margin: 0; padding: 14px 18px; color: {FOREGROUND};\
         font: 13px/1.35 'DejaVu Sans Mono', monospace; white-space: pre }}\
         </style><pre id=screen>"
    );
    for row in 0..rows.get() {
        let mut style = String::new();
        for column in 0..columns.get() {
            let Some(cell) = screen.cell(row, column).filter(|cell| !cell.is_wide_continuation()) else {
                continue;
            };
            let of_cell = self::style(cell);
            if of_cell != style {
                html.push_str(if style.is_empty() { "" } else { "</span>" });
                if !of_cell.is_empty() {
                    // Writing to a string cannot fail.
                    let _ = write!(html, "<span style=\"{of_cell}\">");
                }
                style = of_cell;
            }
            match cell.contents() {
                "" => html.push(' '),
                text => html.push_str(&text.replace('&', "&amp;").replace('<', "&lt;")),
            }
        }
        html.push_str(if style.is_empty() { "\n" } else { "</span>\n" });
    }
    html.push_str("</pre>");
    html
}

/// As CSS; empty for text that is like the rest.
fn style(cell: &Cell) -> String {
    let (mut text, mut behind) = (colour(cell.fgcolor()), colour(cell.bgcolor()));
    if cell.inverse() {
        (text, behind) =
            (behind.or_else(|| Some(BACKGROUND.to_owned())), text.or_else(|| Some(FOREGROUND.to_owned())));
    }
    let declarations = [
        text.map(|colour| format!("color:{colour};")),
        behind.map(|colour| format!("background:{colour};")),
        cell.bold().then(|| "font-weight:bold;".to_owned()),
        cell.dim().then(|| "opacity:.65;".to_owned()),
        cell.underline().then(|| "text-decoration:underline;".to_owned()),
    ];
    declarations.into_iter().flatten().collect()
}

/// None for the terminal's own.
fn colour(colour: Color) -> Option<String> {
    match colour {
        Color::Default => None,
        Color::Idx(at) => COLOURS.get(usize::from(at)).map(|colour| (*colour).to_owned()),
        Color::Rgb(red, green, blue) => Some(format!("#{red:02x}{green:02x}{blue:02x}")),
    }
}
