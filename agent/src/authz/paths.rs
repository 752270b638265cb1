//! Paths in policies: text with a `*` at one end, and templates with `{*}` and `{**}`.

use crate::mesh::{PathRule, PathTemplate, TemplatePart};

/// Whether `path` (normalised, without query) is meant.
pub(super) fn matches(rule: &PathRule, path: &str) -> bool {
    match rule {
        PathRule::Text(text) => text.matches(path),
        PathRule::Template(template) => template_matches(template, path),
    }
}

/// `{*}` is one part and never empty; `{**}` is one part or more, and they may be empty (as Envoy has it: `/a/{**}` means `/a/`
/// but not `/a`).
fn template_matches(template: &PathTemplate, path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let parts: Vec<&str> = rest.split('/').collect();
    // Dynamic programming over prefixes: linear in template × path, where backtracking could be made exponential.
    let mut reachable = vec![false; parts.len() + 1];
    reachable[0] = true;
    for part in &template.0 {
        let mut next = vec![false; parts.len() + 1];
        match part {
            TemplatePart::Many => {
                let mut any = false;
                for (at, slot) in next.iter_mut().enumerate() {
                    *slot = any;
                    any |= reachable[at];
                }
            }
            TemplatePart::One | TemplatePart::Literal(_) => {
                for (at, given) in parts.iter().enumerate() {
                    let fits = match part {
                        TemplatePart::Literal(text) => **text == **given,
                        TemplatePart::One | TemplatePart::Many => !given.is_empty(),
                    };
                    next[at + 1] = reachable[at] && fits;
                }
            }
        }
        reachable = next;
    }
    reachable[parts.len()]
}
