//! What a load found: problems with place and remedy. Shown by `egret check`, `status` and the log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// In force, with something to know.
    Warning,
    /// The object is refused; its last good version, if any, stays in force.
    Error,
}

/// The document of a problem that is in no file.
pub const OBJECT: usize = 0;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Stable code, such as `EG0101`.
    pub code: String,
    /// File, relative to the directory; on a cluster the object of the Kubernetes API, as `Kind namespace/name`.
    pub file: String,
    /// Document in the file, from 1; 0 where it is no file but an object of the Kubernetes API.
    pub document: usize,
    /// Line in the file, from 1, where known.
    pub line: Option<u64>,
    /// The object as `Kind namespace/name`, where known.
    pub object: Option<String>,
    /// Path of the field, such as `spec.http[0].route[1].weight`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Problem {
    /// Whether it is of an object in this namespace, or of none.
    pub fn concerns(&self, namespace: &str) -> bool {
        let object = self.object.as_ref().and_then(|object| object.split_once(' '));
        let place = object.and_then(|(_, name)| name.split_once('/'));
        place.is_none_or(|(found, _)| found == namespace)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}[{}] {}", self.code, self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.document != OBJECT {
            write!(f, " (document {})", self.document)?;
        }
        // An object of the API is its own place.
        if let Some(object) = self.object.as_ref().filter(|object| **object != self.file) {
            write!(f, " {object}")?;
        }
        if let Some(field) = &self.field {
            write!(f, " {field}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// The outcome of one load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Objects in force.
    pub objects: usize,
    /// Everything found.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether any object was refused.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::{OBJECT, Problem, Severity};

    #[test]
    fn what_is_of_no_object_concerns_every_namespace() {
        let problem = |object: Option<&str>| Problem {
            severity: Severity::Error,
            code: "EG0102".to_owned(),
            file: "Secrets of a".to_owned(),
            document: OBJECT,
            line: None,
            object: object.map(str::to_owned),
            field: None,
            message: "is no object".to_owned(),
            remedy: None,
        };
        assert!(problem(Some("Gateway a/b")).concerns("a") && !problem(Some("Gateway a/b")).concerns("b"));
        assert!(problem(None).concerns("b"));
        assert_eq!(problem(None).to_string(), "error[EG0102] Secrets of a: is no object");
    }
}
