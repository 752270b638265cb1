//! The files of the page. They hold nothing that anybody may not see: what is to be seen comes from the API.

use axum::{Router, http::header::CONTENT_TYPE, routing::get};

/// Path, media type, text.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
];

/// Serves them.
pub(super) fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, media_type, text)| {
        router.route(path, get(move || async move { ([(CONTENT_TYPE, media_type)], text) }))
    })
}
