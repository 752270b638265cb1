//! Keys, and where they lead.

use super::*;

fn rows(names: &[&str]) -> Choices {
    Choices::Rows(names.iter().map(ToString::to_string).collect())
}

fn press(view: View, key: KeyCode, choices: &Choices) -> (View, Effect) {
    view.press(KeyEvent::new(key, KeyModifiers::NONE), choices)
}

fn char(view: View, key: char) -> View {
    press(view, KeyCode::Char(key), &rows(&["a", "b"])).0
}

#[test]
fn enter_goes_in_and_escape_comes_back_to_where_it_was() {
    let names = rows(&["a", "b", "c"]);
    let ids = [(); 3].map(|()| FlowId::random());
    let flows = Choices::Flows(ids.to_vec());
    let (view, _) = press(View::default(), KeyCode::Down, &names);
    let (view, effect) = press(view, KeyCode::Enter, &names);
    assert!(matches!(&view.depth, Depth::Flows { row, .. } if row == "b"), "{view:?}");
    assert_eq!(effect, Effect::Nothing);
    let (view, _) = press(view, KeyCode::End, &flows);
    let (view, effect) = press(view, KeyCode::Enter, &flows);
    assert_eq!(effect, Effect::Ask(ids[2]));
    let (view, _) = press(view, KeyCode::PageDown, &Choices::Lines(7));
    assert!(matches!(view.depth, Depth::Story { line: 6, id, .. } if id == ids[2]), "{view:?}");
    let (view, effect) = press(view, KeyCode::Enter, &Choices::Lines(7));
    assert_eq!(effect, Effect::Nothing, "there is nothing behind a story");
    let (view, _) = press(view, KeyCode::Esc, &Choices::Lines(7));
    let Depth::Flows { flow, .. } = &view.depth else { unreachable!("{view:?}") };
    assert_eq!(flow.place(&ids), Some(2));
    let (view, _) = press(view, KeyCode::Esc, &flows);
    assert_eq!((&view.depth, view.row.place(&["a".into(), "b".into()])), (&Depth::Rows, Some(1)));
    let (back, effect) = press(view.clone(), KeyCode::Esc, &names);
    assert_eq!((back, effect), (view, Effect::Nothing));
}

#[test]
fn a_choice_stays_with_what_was_chosen() {
    let (view, _) = press(View::default(), KeyCode::Down, &rows(&["a", "b", "c"]));
    let place = |view: &View, names: &[&str]| {
        view.row.place(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(place(&view, &["c", "a", "b"]), Some(2));
    assert_eq!(place(&view, &["c", "a", "d"]), Some(1), "it is gone, its place is not");
    assert_eq!(place(&view, &["c"]), Some(0));
    assert_eq!(place(&view, &[]), None);
    assert_eq!(place(&View::default(), &["c", "a"]), Some(0), "nothing was chosen: the first, whoever it is");
    let (view, effect) = press(View::default(), KeyCode::Enter, &rows(&[]));
    assert_eq!((view, effect), (View::default(), Effect::Nothing));
}

#[test]
fn rows_are_grouped_and_sorted_by_keys() {
    let view = View::new(GroupBy::Workload, Rank::Bytes);
    for (key, by, rank) in [
        ('h', GroupBy::Host, Rank::Bytes),
        ('u', GroupBy::Rule, Rank::Bytes),
        ('x', GroupBy::Workload, Rank::Refused),
        ('l', GroupBy::Workload, Rank::FirstByte),
        ('n', GroupBy::Workload, Rank::Name),
        ('z', GroupBy::Workload, Rank::Bytes),
    ] {
        let view = char(view.clone(), key);
        assert_eq!((view.by, view.rank), (by, rank), "{key}");
    }
    let cycle = |view| press(view, KeyCode::Tab, &rows(&[])).0;
    assert_eq!(cycle(cycle(cycle(view.clone()))).by, view.by);
    let inside = View { depth: Depth::Flows { row: "a".into(), flow: Cursor::default() }, ..view };
    assert_eq!(char(inside.clone(), 'h'), inside, "what is not on the screen does not change");
}

#[test]
fn pause_help_and_the_end() {
    let (view, effect) = press(View::default(), KeyCode::Char('p'), &rows(&[]));
    assert_eq!((view.paused, effect), (true, Effect::Nothing));
    let (view, effect) = press(view, KeyCode::Char(' '), &rows(&[]));
    assert_eq!((view.paused, effect), (false, Effect::Resume));
    let view = char(view, '?');
    assert!(view.help);
    let closed = char(view.clone(), 'p');
    assert!(!closed.help && !closed.paused, "it closes the help and nothing else");
    for help in [View::default(), view] {
        assert_eq!(press(help.clone(), KeyCode::Char('q'), &rows(&[])).1, Effect::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(help.press(interrupt, &rows(&[])).1, Effect::Quit);
    }
    let stale = press(View::default(), KeyCode::Down, &Choices::Lines(5)).0;
    assert_eq!(stale, View::default(), "keys for what is no longer there");
}
