//! The configuration of a cluster as a gateway would see it now, read once from outside: for `check` and `explain`.

use anyhow::Context as _;
use kube::{Client, api::ListParams};

use super::{
    super::{
        Outside,
        watching::{NO_SUCH_KIND, describe_cause},
    },
    object::{self, Object},
    subject::{ALL, Subject, settings_place},
};
use crate::source::{
    codes,
    following::Loaded,
    index::Index,
    report::{OBJECT, Problem, Severity},
};

/// Objects per request.
const PAGE: u32 = 500;

/// Reads everything once. What is missing in the cluster, and Secrets that may not be read, are problems in the report.
pub async fn load(cluster: &Outside) -> anyhow::Result<Loaded> {
    let Outside { client, namespace } = cluster;
    let mut index = Index::default();
    let mut notes = Vec::new();
    for subject in ALL {
        let title = subject.title(namespace);
        match list(client, namespace, subject).await {
            Ok(Some(objects)) => objects.iter().for_each(|object| object::apply(&mut index, subject, object)),
            Ok(None) => notes.push(note(&title, codes::NO_SUCH_KIND, NO_SUCH_KIND.to_owned())),
            Err(kube::Error::Api(status)) if status.code == 403 && subject == Subject::Secret => {
                index.without_credentials();
                let sentence = format!("{}: nothing is said of credentials", status.message);
                notes.push(note(&title, codes::NOT_SHOWN, sentence));
            }
            Err(error) => {
                return Err(anyhow::Error::msg(describe_cause(&error)))
                    .with_context(|| format!("{title} cannot be read"));
            }
        }
    }
    let place = settings_place(namespace);
    if !index.has_file(&place) {
        object::apply_without_settings(&mut index, &place);
    }
    // Thousands of objects take their time.
    let mut loaded = tokio::task::spawn_blocking(move || index.load()).await?;
    let report = std::sync::Arc::make_mut(&mut loaded.report);
    report.problems.splice(0..0, notes);
    Ok(loaded)
}

/// All objects of a kind; `None` where the cluster does not know it.
async fn list(
    client: &Client,
    namespace: &str,
    subject: Subject,
) -> Result<Option<Vec<Object>>, kube::Error> {
    let Some(resource) = subject.discover(client, namespace).await? else { return Ok(None) };
    let api = subject.api(client, namespace, &resource);
    let mut page = ListParams { field_selector: subject.selection().field_selector, ..ListParams::default() };
    page = page.limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items.into_iter().filter_map(|item| object::read(subject, &resource, item)));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(Some(found)),
        }
    }
}

fn note(title: &str, code: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Warning,
        code: code.to_owned(),
        file: title.to_owned(),
        document: OBJECT,
        line: None,
        object: None,
        field: None,
        message,
        remedy: None,
    }
}
