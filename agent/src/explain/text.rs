//! An explanation as text for people.

use std::fmt;

use super::{Explanation, Outcome, Tls};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request          {}", self.request)?;
        writeln!(f, "configuration    version {}", self.snapshot)?;
        writeln!(f, "authorization    {}", self.authorization.detail)?;
        for step in &self.route {
            write!(f, "{:<16} {}", step.stage.replace('_', " "), step.object)?;
            if let Some(route) = &step.route {
                write!(f, ", route {route}")?;
            }
            writeln!(f)?;
        }
        match &self.outcome {
            Outcome::Forward { cluster, resolution, endpoints, load_balancer, path, authority, tls } => {
                writeln!(f, "upstream         {cluster}")?;
                writeln!(f, "endpoints        {} ({resolution}, {load_balancer})", endpoints.join(", "))?;
                if let Some(path) = path {
                    writeln!(f, "new path         {path}")?;
                }
                if let Some(authority) = authority {
                    writeln!(f, "new host         {authority}")?;
                }
                match tls {
                    Some(tls) => write!(f, "tls              {tls}")?,
                    None => write!(f, "tls              none, bytes go as they are")?,
                }
                write!(f, "\nresult           forwarded")
            }
            Outcome::Answer { status, content } => {
                write!(f, "result           answered with {status} by configuration: {content}")
            }
            Outcome::Refuse { reason, status, detail, object } => {
                write!(f, "result           refused with ")?;
                match status {
                    Some(status) => write!(f, "{status}")?,
                    None => f.write_str("a TLS alert")?,
                }
                write!(f, ", {reason}: {detail}")?;
                match object {
                    Some(object) if !detail.contains(object.as_str()) => write!(f, " ({object})"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, server name {}, ", self.mode, self.sni)?;
        if self.verified_names.is_empty() {
            f.write_str("certificate NOT VERIFIED")?;
        } else {
            write!(f, "certificate must bear {}", self.verified_names.join(" or "))?;
        }
        match &self.credential {
            None => f.write_str(", trust from the system"),
            Some(name) => match self.credential_present {
                Some(true) => write!(f, ", Secret {name}"),
                Some(false) => write!(f, ", Secret {name} MISSING or incomplete"),
                None => write!(f, ", Secret {name} (which may not be read from here)"),
            },
        }
    }
}
