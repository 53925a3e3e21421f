//! `audit review`: the sessions that were opened without the approval they needed, until somebody else has
//! looked at them.

use crate::manager::{answer, manager};
use crate::output::Output;
use crate::terminal::{YELLOW, painted, safe, table};
use godebug_api::audit::{AuditReviews, AuditTrail};
use godebug_api::{Reason, Refusal, SessionId};

pub(crate) async fn list(output: &Output) -> Result<(), Refusal> {
    let reviews: AuditReviews = answer(manager().await?.audit_reviews().await)?;
    output.result(&reviews, &in_words(&reviews))
}

/// Records that this person has looked at it.
///
/// # Errors
/// When it needs no review, goes on still, or this is not the person.
pub(crate) async fn close(output: &Output, id: &SessionId, note: &Reason) -> Result<(), Refusal> {
    let trail: AuditTrail =
        answer(manager().await?.audit_review(id.as_str(), &note.to_string()).await)?;
    output.result(&trail, &format!("session {id} is reviewed; the record says so"))
}

fn in_words(reviews: &AuditReviews) -> String {
    let mut text = if reviews.open.is_empty() {
        "nothing needs a review\n".to_owned()
    } else {
        let mut rows = vec![["BROKEN AT", "ID", "BY", "UNIT", "WHY"].map(str::to_owned).to_vec()];
        rows.extend(reviews.open.iter().map(|record| {
            let id = record.session.as_ref().map_or("-".to_owned(), ToString::to_string);
            let reason = record.facts().reason.map_or("-".to_owned(), safe);
            vec![safe(&record.time), id, safe(&record.user), safe(&record.unit), reason]
        }));
        let how = "godebugctl audit show ID, then: godebugctl audit review ID --note TEXT";
        table(&rows) + &format!("\nSomebody else than whoever did it looks at each: {how}\n")
    };
    if reviews.damaged_lines > 0 {
        let warning = painted(YELLOW, "warning:");
        let lines = reviews.damaged_lines;
        text.push_str(&format!("{warning} damaged lines in the logs, passed over: {lines}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;
    use serde_json::json;

    #[test]
    fn what_needs_a_review_is_told_with_how_to_close_it_and_nothing_hostile() {
        let hostile = "a\u{1b}[2Jb\nc";
        let record = json!({
            "time": hostile, "event": "break-glass", "session": "0000000a", "unit": hostile,
            "uid": 7, "user": hostile, "message": "m", "details": {"reason": hostile},
        });
        let reviews: AuditReviews =
            serde_json::from_value(json!({"open": [record], "damaged_lines": 2})).unwrap();
        let text = filtered(&in_words(&reviews), false);
        assert!(text.contains("0000000a") && text.contains("--note TEXT"), "{text}");
        assert!(text.contains("passed over: 2"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
        let none = AuditReviews { open: Vec::new(), damaged_lines: 0 };
        assert_eq!(in_words(&none), "nothing needs a review\n");
    }
}
