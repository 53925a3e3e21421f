//! A hundred questions to a site's rules, what is wrong with files, and what must hold whatever the
//! rules and the question are.

use super::*;
use crate::words::{Reason, UnitName};
use proptest::prelude::*;

const SITE: &str = r#"
[[rule]]
name = "payments is nobody's"
effect = "deny"
units = ["payments", "payments-*"]

[[rule]]
name = "no changes on Friday night"
effect = "deny"
modes = ["modify"]
days = ["fri"]
hours = ["18:00-06:00"]

[[rule]]
name = "not from the guests' network"
effect = "deny"
sources = ["10.66.0.0/16"]

[[rule]]
name = "root"
effect = "allow"
users = ["root"]
modes = ["observe", "step", "modify"]

[[rule]]
name = "on-call looks at the shop"
effect = "allow"
units = ["shop", "shop-*"]
groups = ["oncall"]
modes = ["observe", "step"]
commands = ["attach", "snapshot"]
max_ttl = "1h"
max_total = "4h"
reason_pattern = "^OPS-[0-9]+"
sources = ["10.1.0.0/16", "fd00::/8"]
sessions = { per_unit = 1, per_host = 3, per_person = 2 }

[[rule]]
name = "developers by day"
effect = "allow"
slices = ["apps.slice"]
users = ["dora"]
groups = ["developers", "DOM\\web devs"]
days = ["mon-fri"]
hours = ["08:00-12:00", "13:00-18:00"]
reason_required = true

[[rule]]
name = "the ledger by two"
effect = "allow"
units = ["ledger"]
groups = ["oncall"]
approvals = { count = 2, users = ["lea"], groups = ["leads"], within = "20m", break_glass = true }

[[rule]]
name = "the vault by one"
effect = "allow"
units = ["vault"]
groups = ["oncall"]
approvals = { users = ["lea"] }

[[rule]]
name = "the web team's containers"
effect = "allow"
containers = ["web", "prod/web-*/app"]
groups = ["web"]

[[rule]]
name = "not the notes"
effect = "deny"
units = ["user@*"]
users = ["ned"]

[[rule]]
name = "one's own"
effect = "allow"
own = true
modes = ["step", "modify"]

[[rule]]
name = "the canary is for all"
effect = "allow"
units = ["canary@?"]
max_ttl = "10m"
"#;

/// `USER[@GROUP,…] COMMAND UNIT KEY=VALUE…`, and what is said: `+RULE`, `?` and whose consent it needs,
/// `!RULE` where the glass is broken, or `-` and a part of the no.
const CASES: &[(&str, &str)] = &[
    // Denials come first, for everybody.
    ("root attach payments", "-payments is nobody's"),
    ("root attach payments-db mode=modify", "-payments is nobody's"),
    ("alice@oncall attach payments", "-payments is nobody's"),
    ("root attach payments.scope", "+root"),
    ("root attach paymentsx", "+root"),
    ("root attach shop mode=modify at=fri-18:00", "-Friday night"),
    ("root attach shop mode=modify at=fri-23:59", "-Friday night"),
    ("root attach shop mode=modify at=sat-00:00", "-Friday night"),
    ("root attach shop mode=modify at=sat-05:59", "-Friday night"),
    ("root attach shop mode=modify at=sat-06:00", "+root"),
    ("root attach shop mode=modify at=fri-17:59", "+root"),
    ("root attach shop mode=modify at=fri-03:00", "+root"),
    ("root attach shop mode=step at=fri-20:00", "+root"),
    ("root attach shop from=10.66.1.1", "-guests"),
    ("root attach shop from=10.1.0.1,10.66.1.1", "-guests"),
    ("root attach shop from=10.0.0.0/8", "-guests"),
    ("root attach shop from=10.66.0.0/17", "-guests"),
    ("root attach shop from=10.67.0.1", "+root"),
    ("root attach shop from=127.0.0.1", "+root"),
    ("root attach shop", "+root"),
    // root has no other limit here.
    ("root exec shop mode=modify ttl=30days", "+root"),
    ("root core canary@1", "+root"),
    ("root snapshot anything.scope", "+root"),
    ("root attach shop running=9/9/9", "+root"),
    // On-call: who.
    ("alice@oncall attach shop reason=OPS-1", "+on-call"),
    ("alice@x,oncall,y attach shop reason=OPS-1", "+on-call"),
    ("alice attach shop reason=OPS-1", "-no rule allows alice to attach shop.service"),
    ("alice@oncal attach shop reason=OPS-1", "-no rule"),
    ("alice@Oncall attach shop reason=OPS-1", "-no rule"),
    ("oncall attach shop reason=OPS-1", "-no rule"),
    ("@oncall attach shop reason=OPS-1", "+on-call"),
    // Which unit.
    ("alice@oncall attach shop-eu reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop- reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop-x.scope reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop.scope reason=OPS-1", "-no rule"),
    ("alice@oncall attach shopx reason=OPS-1", "-no rule"),
    ("alice@oncall attach myshop reason=OPS-1", "-no rule"),
    ("alice@oncall attach Shop reason=OPS-1", "-no rule"),
    ("alice@oncall attach other reason=OPS-1", "-no rule"),
    // How.
    ("alice@oncall snapshot shop reason=OPS-1", "+on-call"),
    ("alice@oncall exec shop reason=OPS-1", "-no rule allows alice to exec"),
    ("alice@oncall core shop reason=OPS-1", "-no rule"),
    ("alice@oncall attach shop mode=observe reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop mode=modify reason=OPS-1", "-mode modify"),
    ("alice@oncall attach shop mode=modify reason=OPS-1", "-with --mode observe or step"),
    // How long.
    ("alice@oncall attach shop ttl=1h reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop ttl=3601s reason=OPS-1", "-allows 1h at most (max_ttl)"),
    ("alice@oncall attach shop ttl=2h reason=OPS-1", "-ask for --ttl 1h"),
    ("alice@oncall attach shop ttl=1s reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop ttl=1h lasted=3h reason=OPS-1", "+on-call"),
    ("alice@oncall attach shop ttl=1h lasted=181m reason=OPS-1", "-4h in all (max_total)"),
    // Why.
    ("alice@oncall attach shop", "-wants a reason"),
    ("alice@oncall attach shop reason=because", "-pattern ^OPS-[0-9]+"),
    ("alice@oncall attach shop reason=see-OPS-1", "-pattern"),
    ("alice@oncall attach shop reason=OPS-", "-pattern"),
    ("alice@oncall attach shop reason=OPS-17-orders-are-slow", "+on-call"),
    // From where.
    ("alice@oncall attach shop reason=OPS-1 from=10.1.2.3", "+on-call"),
    ("alice@oncall attach shop reason=OPS-1 from=10.1.2.0/24,127.0.0.1", "+on-call"),
    ("alice@oncall attach shop reason=OPS-1 from=::1", "+on-call"),
    ("alice@oncall attach shop reason=OPS-1 from=fd00::7", "+on-call"),
    ("alice@oncall attach shop reason=OPS-1 from=fe80::/10", "-no rule"),
    ("alice@oncall attach shop reason=OPS-1 from=10.2.0.1", "-with --from inside 10.1.0.0/16"),
    ("alice@oncall attach shop reason=OPS-1 from=10.1.2.3,10.2.0.1", "-no rule"),
    ("alice@oncall attach shop reason=OPS-1 from=10.0.0.0/15", "-no rule"),
    ("alice@oncall attach shop reason=OPS-1 from=10.66.0.1", "-guests"),
    // How many.
    ("alice@oncall attach shop reason=OPS-1 running=0/2/1", "+on-call"),
    ("alice@oncall attach shop reason=OPS-1 running=1/1/0", "-1 session on one unit at a time"),
    ("alice@oncall attach shop reason=OPS-1 running=0/3/0", "-3 sessions on one host"),
    ("alice@oncall attach shop reason=OPS-1 running=0/2/2", "-2 sessions of one person"),
    ("alice@oncall attach shop reason=OPS-1 running=-", "+on-call"),
    // Developers: by slice, by name or group, by day.
    ("dora attach web slice=apps.slice reason=x", "+developers"),
    ("dora attach web slice=apps-web.slice reason=x", "+developers"),
    ("dora attach web slice=apps-web-eu.slice reason=x", "+developers"),
    ("dora attach web slice=appsweb.slice reason=x", "-no rule"),
    ("dora attach web slice=system.slice reason=x", "-no rule"),
    ("dora attach web reason=x", "-no rule"),
    ("dora attach apps reason=x", "-no rule"),
    ("bob@developers attach web slice=apps.slice reason=x", "+developers"),
    ("bob@DOM\\web_devs attach web slice=apps.slice reason=x", "+developers"),
    ("bob@dora attach web slice=apps.slice reason=x", "-no rule"),
    ("developers attach web slice=apps.slice reason=x", "-no rule"),
    ("dora attach web slice=apps.slice", "-wants a reason"),
    ("dora exec web slice=apps.slice reason=x", "+developers"),
    ("dora attach web slice=apps.slice reason=x mode=observe", "+developers"),
    ("dora attach web slice=apps.slice reason=x mode=modify", "-no rule"),
    ("dora attach web slice=apps.slice reason=x at=mon-08:00", "+developers"),
    ("dora attach web slice=apps.slice reason=x at=mon-07:59", "-no rule"),
    ("dora attach web slice=apps.slice reason=x at=fri-11:59", "+developers"),
    ("dora attach web slice=apps.slice reason=x at=fri-12:00", "-no rule"),
    ("dora attach web slice=apps.slice reason=x at=wed-13:00", "+developers"),
    ("dora attach web slice=apps.slice reason=x at=wed-18:00", "-at mon, tue, wed, thu, fri 08:00"),
    ("dora attach web slice=apps.slice reason=x at=sat-10:00", "-no rule"),
    ("dora attach web slice=apps.slice reason=x at=sun-10:00", "-no rule"),
    ("dora attach web slice=apps.slice reason=x ttl=30days", "+developers"),
    ("dora attach web slice=apps.slice reason=x from=192.0.2.1", "+developers"),
    ("dora attach payments slice=apps.slice reason=x", "-nobody's"),
    // The canary.
    ("eve attach canary@1 ttl=10m", "+canary"),
    ("eve attach canary@a mode=observe", "+canary"),
    ("eve attach canary@12", "-no rule"),
    ("eve attach canary@1.scope", "-no rule"),
    ("eve attach canary@1 ttl=11m", "-10m at most"),
    ("eve attach canary@1 mode=modify", "-no rule"),
    ("eve snapshot canary@1", "+canary"),
    ("eve attach canary@1 from=10.66.3.4", "-guests"),
    ("dora attach canary@1 at=sun-10:00", "+canary"),
    ("alice@oncall attach canary@1", "+canary"),
    ("root attach canary@1 ttl=9h", "+root"),
    ("0 attach shop", "-no rule"),
    // Whose consent it needs.
    ("alice@oncall attach ledger", "?2 approvals by lea, group leads"),
    ("alice@oncall attach ledger reason=x", "?2 approvals by lea, group leads"),
    ("lea@oncall attach ledger", "?2 approvals"),
    ("lea attach ledger", "-no rule"),
    ("bob@leads attach ledger", "-no rule"),
    ("alice@oncall attach ledger mode=modify", "-no rule"),
    ("alice@oncall attach ledger glass=broken", "-why the glass is broken"),
    ("alice@oncall attach ledger glass=broken reason=fire", "!the ledger by two"),
    ("alice attach ledger glass=broken reason=fire", "-no rule"),
    ("alice@oncall attach vault", "?1 approval by lea"),
    (
        "alice@oncall attach vault glass=broken reason=fire",
        "-lets nobody go ahead without 1 approval",
    ),
    ("alice@oncall attach shop glass=broken reason=OPS-1", "-there is no glass to break"),
    ("root attach ledger", "+root"),
    ("root attach ledger glass=broken reason=fire", "-leave --break-glass out"),
    ("roo attach shop", "-no rule"),
    // Parts of units: containers by name, and what people run themselves.
    ("wim@web attach docker-1.scope container=web", "+the web team's containers"),
    ("wim@web attach docker-1.scope container=prod/web-7f/app", "+the web team's containers"),
    ("wim@web attach docker-1.scope container=webby", "-(container webby)"),
    ("wim@web attach docker-1.scope container=test/web-7f/app", "-no rule"),
    ("wim@web attach docker-1.scope", "-no rule"),
    ("wim attach docker-1.scope container=web", "-no rule"),
    ("wim@web attach web", "-no rule"),
    ("root attach docker-1.scope container=web", "+root"),
    ("ada attach user@7.service owner=ada mode=modify", "+one's own"),
    ("ada attach user@7.service owner=ada mode=observe", "-no rule"),
    ("ada attach user@7.service owner=bea", "-(a unit of bea's own)"),
    ("ada attach user@7.service", "-no rule"),
    ("ned attach user@9.service owner=ned", "-not the notes"),
];

struct Asked {
    user: String,
    groups: Vec<String>,
    command: Command,
    unit: UnitName,
    slice: Option<String>,
    container: Option<String>,
    owner: Option<String>,
    mode: Mode,
    ttl: Duration,
    lasted: Duration,
    reason: Option<Reason>,
    sources: Vec<Cidr>,
    now: Moment,
    running: Option<Running>,
    break_glass: bool,
}

impl Asked {
    /// By day from the host itself, with no other session.
    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let (user, groups) = words[0].split_once('@').unwrap_or((words[0], ""));
        let command = Command::ALL.into_iter().find(|it| it.to_string() == words[1]).unwrap();
        let mut asked = Self {
            user: user.to_owned(),
            groups: groups.split(',').map(|group| group.replace('_', " ")).collect(),
            command,
            unit: words[2].parse().unwrap(),
            slice: None,
            container: None,
            owner: None,
            mode: Mode::Step,
            ttl: Duration::from_secs(600),
            lasted: Duration::ZERO,
            reason: None,
            sources: Vec::new(),
            now: moment("tue-10:00"),
            running: Some(Running::default()),
            break_glass: false,
        };
        for word in &words[3..] {
            let (key, value) = word.split_once('=').unwrap();
            match key {
                "mode" => asked.mode = value.parse().unwrap(),
                "ttl" => asked.ttl = humantime::parse_duration(value).unwrap(),
                "lasted" => asked.lasted = humantime::parse_duration(value).unwrap(),
                "reason" => asked.reason = Some(value.parse().unwrap()),
                "from" => asked.sources = value.split(',').map(|it| it.parse().unwrap()).collect(),
                "slice" => asked.slice = Some(value.to_owned()),
                "container" => asked.container = Some(value.to_owned()),
                "owner" => asked.owner = Some(value.to_owned()),
                "at" => asked.now = moment(value),
                "running" => asked.running = running(value),
                "glass" => asked.break_glass = value == "broken",
                _ => panic!("{word}"),
            }
        }
        asked
    }

    fn question(&self) -> Question<'_> {
        Question {
            user: &self.user,
            groups: &self.groups,
            command: self.command,
            unit: &self.unit,
            slice: self.slice.as_deref(),
            container: self.container.as_deref(),
            owner: self.owner.as_deref(),
            mode: self.mode,
            ttl: self.ttl,
            lasted: self.lasted,
            reason: self.reason.as_ref(),
            sources: &self.sources,
            now: self.now,
            running: self.running,
            break_glass: self.break_glass,
        }
    }
}

fn moment(text: &str) -> Moment {
    let (day, time) = text.split_once('-').unwrap();
    let day = Weekday::ALL.into_iter().find(|it| it.name() == day).unwrap();
    let (hour, minute) = time.split_once(':').unwrap();
    Moment { day, minute: hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap() }
}

fn running(text: &str) -> Option<Running> {
    let numbers: Vec<u32> = text.split('/').filter_map(|number| number.parse().ok()).collect();
    let [on_unit, on_host, of_person] = numbers.try_into().ok()?;
    Some(Running { on_unit, on_host, of_person })
}

fn site() -> Vec<Rule> {
    parse("10-site.toml", SITE).unwrap()
}

#[test]
fn a_hundred_questions() {
    let rules = site();
    assert!(CASES.len() >= 100, "{}", CASES.len());
    for (text, expected) in CASES {
        let asked = Asked::parse(text);
        let answer = decide(&rules, &asked.question()).decision;
        let (sign, part) = expected.split_at(1);
        let said = match &answer {
            Ok(Permit { rule, consent: Consent::NotNeeded, .. }) => format!("+{rule}"),
            Ok(Permit { consent: Consent::Needed(approvals), .. }) => format!("?{approvals}"),
            Ok(Permit { rule, consent: Consent::GlassBroken, .. }) => format!("!{rule}"),
            Err(denial) => format!("-{} {}", denial.message, denial.remedy),
        };
        assert!(
            said.starts_with(sign) && said.contains(part),
            "{text}\n  wanted {expected}\n  {said}"
        );
    }
}

#[test]
fn no_rules_and_no_files_grant_nothing() {
    let asked = Asked::parse("root attach shop");
    let denial = decide(&[], &asked.question()).decision.unwrap_err();
    assert_eq!(denial.rule, None);
    assert!(denial.remedy.contains("rules.d"), "{}", denial.remedy);
    assert!(parse("a.toml", "").unwrap().is_empty());
}

#[test]
fn an_answer_says_which_rules_were_passed_over_and_why() {
    let rules = site();
    let asked = Asked::parse("alice@oncall attach shop mode=modify from=10.2.0.1");
    let answer = decide(&rules, &asked.question());
    let passed: Vec<(&str, Vec<&str>)> = answer
        .passed_over
        .iter()
        .map(|passed| {
            let fields = passed.mismatches.iter().map(|mismatch| mismatch.field.as_str());
            (passed.rule.name.as_str(), fields.collect())
        })
        .collect();
    assert_eq!(passed.len(), rules.len());
    assert_eq!(passed[0], ("payments is nobody's", vec!["units"]));
    assert_eq!(passed[1], ("no changes on Friday night", vec!["days and hours"]));
    assert_eq!(passed[4], ("on-call looks at the shop", vec!["modes", "sources"]));
    let text = answer.passed_over[4].mismatches[0].to_string();
    assert_eq!(text, "modes is observe, step, not modify");
}

#[test]
fn a_permit_carries_the_rules_limits_and_its_place() {
    let rules = site();
    let asked = Asked::parse("alice@oncall attach shop reason=OPS-1");
    let permit = decide(&rules, &asked.question()).decision.unwrap();
    assert_eq!(permit.name(), "\"on-call looks at the shop\" (10-site.toml:25)");
    assert_eq!(permit.limits.max_total, Some(Duration::from_secs(4 * 3600)));
    assert_eq!(permit.policy, SessionPolicy::default());
    let full = Running { on_unit: 1, ..Running::default() };
    assert!(permit.room_for_one_more(full).is_err());
}

/// A file's body below a good head, its line, and parts of what is said about it.
const WRONG: &[(&str, usize, &str)] = &[
    ("max_tll = \"1h\"", 4, "did you mean `max_ttl`?"),
    ("unit = [\"a\"]", 4, "did you mean `units`?"),
    ("colour = \"red\"", 4, "\"colour\" is no key here"),
    ("max_ttl = 60", 4, "must be a duration"),
    ("max_ttl = \"soon\"", 4, "is no duration"),
    ("max_ttl = \"0s\"", 4, "is no duration of a second"),
    ("max_ttl = \"2h\"\nmax_total = \"1h\"", 1, "max_total is shorter"),
    ("modes = [\"stpe\"]", 4, "did you mean `step`?"),
    ("modes = \"step\"", 4, "must be a list"),
    ("modes = []", 4, "would fit nothing"),
    ("modes = [\n  \"step\",\n  7,\n]", 6, "must be a text"),
    ("commands = [\"atach\"]", 4, "did you mean `attach`?"),
    ("units = [\"a b\"]", 4, "no name of one contains ' '"),
    ("units = [\"web.slice\"]", 4, "name it under `slices`"),
    ("slices = [\"a/b\"]", 4, "is no slice"),
    ("users = []", 4, "would fit nothing"),
    ("users = [\"\"]", 4, "is no name of a user"),
    ("sources = [\"10.1.2.3/8\"]", 4, "bits set beyond"),
    ("sources = [\"0.0.0.0/0\"]", 4, "the whole internet"),
    ("days = [\"someday\"]", 1, "is no day"),
    ("hours = [\"8-18\"]", 1, "are no hours"),
    ("hours = [\"08:00-08:00\"]", 1, "hold no minute"),
    ("hours = [\"25:00-26:00\"]", 1, "are no hours"),
    ("reason_pattern = \"(\"", 4, "is no pattern"),
    ("reason_required = \"yes\"", 4, "must be true or false"),
    ("reason_required = false\nreason_pattern = \"x\"", 1, "leave one of them out"),
    ("sessions = { per_unit = 0 }", 4, "a number from 1 on"),
    ("sessions = { per_unti = 1 }", 4, "did you mean `per_unit`?"),
    ("sessions = 3", 4, "must be a table"),
    ("approvals = { count = 1 }", 4, "does not say by whom"),
    ("approvals = { count = 0, users = [\"a\"] }", 4, "a number from 1 on"),
    ("approvals = { count = 2, users = [\"a\", \"a\"] }", 4, "wants 2 people, and names 1"),
    ("approvals = { group = [\"a\"] }", 4, "did you mean `groups`?"),
    ("approvals = { users = [\"a\"], within = 60 }", 4, "must be a duration"),
    ("approvals = 2", 4, "must be a table"),
    ("pause = { per_stpo = \"30s\" }", 4, "did you mean `per_stop`?"),
    ("transcript_values = \"digets\"", 4, "did you mean `digest`?"),
    ("redact = { names = [\"\"] }", 4, "fits nothing"),
    ("name = \"twice\"", 4, "duplicate key"),
    ("effect", 4, ""),
    ("[rule.x]\ny = 1", 4, "is no key here"),
    ("[[rules]]\nname = \"b\"", 4, "did you mean `rule`?"),
    ("[[rule]]\nname = \"b\"", 4, "the rule has no effect"),
    ("[[rule]]\neffect = \"allow\"", 4, "the rule has no name"),
    ("[[rule]]\nname = \"b\"\neffect = \"allwo\"", 6, "did you mean `allow`?"),
    (
        "[[rule]]\nname = \"b\"\neffect = \"deny\"\nmax_ttl = \"1h\"",
        4,
        "a rule that denies has limits",
    ),
];

#[test]
fn whatever_is_wrong_has_its_line_and_what_to_do() {
    for (text, line, part) in WRONG {
        let text = format!("[[rule]]\nname = \"a\"\neffect = \"allow\"\n{text}\n");
        let problems = parse("a.toml", &text).unwrap_err();
        let found = problems
            .iter()
            .any(|problem| problem.place.line == *line && problem.to_string().contains(part));
        assert!(found, "{text}\n  wanted line {line}: {part}\n  {problems:#?}");
    }
    let problems = parse("a.toml", "rule = 3\nx = 1").unwrap_err();
    assert_eq!(problems.len(), 2, "all is told at once: {problems:?}");
    assert!(parse("a.toml", &"#".repeat(300_000)).is_err());
}

fn warnings(text: &str) -> Vec<String> {
    check(&parse("a.toml", text).unwrap()).iter().map(ToString::to_string).collect()
}

fn pair(first: &str, second: &str) -> String {
    let rule = |name: &str, body: &str| {
        let effect = if body.contains("effect") { "" } else { "effect = \"allow\"\n" };
        format!("[[rule]]\nname = \"{name}\"\n{effect}{}\n", body.replace("; ", "\n"))
    };
    rule("a", first) + &rule("b", second)
}

#[test]
fn a_rule_that_is_never_reached_is_told() {
    for (first, second) in [
        ("", ""),
        ("", "units = [\"x\"]; users = [\"y\"]; days = [\"mon\"]"),
        ("units = [\"shop*\"]", "units = [\"shop\", \"shop-?\"]"),
        ("units = [\"*\"]", "slices = [\"x.slice\"]"),
        ("slices = [\"x.slice\"]", "slices = [\"x-y.slice\"]"),
        ("units = [\"*\"]", "containers = [\"x\"]"),
        ("units = [\"*\"]", "own = true"),
        ("containers = [\"x*\"]; own = true", "containers = [\"x\", \"xy\"]"),
        ("groups = [\"a\", \"b\"]", "groups = [\"b\"]"),
        ("effect = \"deny\"", "units = [\"x\"]; modes = [\"modify\"]"),
        ("sources = [\"10.0.0.0/8\"]", "sources = [\"10.1.0.0/16\"]"),
        ("days = [\"mon-fri\"]", "days = [\"tue\"]; hours = [\"08:00-09:00\"]"),
        ("hours = [\"22:00-06:00\"]", "hours = [\"23:00-05:00\"]"),
    ] {
        let told = warnings(&pair(first, second));
        assert!(told.len() == 1 && told[0].contains("never reached"), "{first} {second} {told:?}");
    }
    for (first, second) in [
        ("units = [\"shop\"]", ""),
        ("units = [\"shop-?\"]", "units = [\"shop-*\"]"),
        ("users = [\"a\"]", "groups = [\"a\"]"),
        ("modes = [\"step\"]", ""),
        ("units = [\"x\"]", "containers = [\"x\"]"),
        ("containers = [\"*\"]", "own = true"),
        ("own = true", "containers = [\"x\"]"),
        ("", "modes = [\"modify\"]"),
        ("sources = [\"10.1.0.0/16\"]", "sources = [\"10.0.0.0/8\"]"),
        ("effect = \"deny\"; sources = [\"10.0.0.0/8\"]", "sources = [\"10.1.0.0/16\"]"),
        ("days = [\"mon-fri\"]", "days = [\"sat\"]"),
        ("hours = [\"22:00-06:00\"]", "days = [\"mon\"]; hours = [\"05:00-07:00\"]"),
    ] {
        let told = warnings(&pair(first, second));
        assert!(told.is_empty(), "{first} | {second}: {told:?}");
    }
    assert!(check(&site()).is_empty());
}

#[test]
fn twins_and_misspelt_suffixes_are_told() {
    let twins = "[[rule]]\nname = \"a\"\neffect = \"allow\"\nunits = [\"x\"]\n\
                 [[rule]]\nname = \"a\"\neffect = \"allow\"\nunits = [\"y.servcie\"]\n";
    let told = warnings(twins);
    assert!(told[0].contains("a rule \"a\" is at a.toml:1 already"), "{told:?}");
    assert!(told[1].contains("did you mean `.service`?"), "{told:?}");
}

#[test]
fn a_glob_takes_no_longer_for_being_hostile() {
    let glob: Glob = "*a".repeat(120).parse().unwrap();
    assert!(!glob.matches(&"a".repeat(100)));
    assert!(glob.matches(&"a".repeat(120)));
    let pattern: Pattern = "(a*)*b".parse().unwrap();
    assert!(!pattern.is_in(&"a".repeat(400)));
}

/// Rules of few words, so that they often meet.
fn some_rules() -> impl Strategy<Value = String> {
    let pick = |all: &'static [&'static str]| prop::sample::select(all);
    let body = (
        pick(&[
            "",
            "units = [\"a\"]",
            "units = [\"a*\", \"b\"]",
            "slices = [\"s\"]",
            "containers = [\"k*\"]",
            "own = true",
        ]),
        pick(&[
            "",
            "users = [\"u\"]",
            "groups = [\"g\"]",
            "users = [\"v\"]\ngroups = [\"g\", \"h\"]",
        ]),
        pick(&[
            "",
            "modes = [\"modify\"]",
            "modes = [\"step\", \"modify\"]",
            "commands = [\"attach\"]",
        ]),
        pick(&["", "sources = [\"10.0.0.0/8\"]", "days = [\"mon\"]", "hours = [\"20:00-04:00\"]"]),
        pick(&[
            "",
            "max_ttl = \"1h\"",
            "reason_pattern = \"x\"",
            "sessions = { per_host = 1 }",
            "approvals = { users = [\"l\"] }",
            "approvals = { users = [\"l\"], break_glass = true }",
        ]),
        any::<bool>(),
    );
    let rule = body.prop_map(|(units, who, how, whence, limits, allow)| {
        let (effect, limits) = if allow { ("allow", limits) } else { ("deny", "") };
        format!("[[rule]]\nname = \"r\"\neffect = \"{effect}\"\n{units}\n{who}\n{how}\n{whence}\n{limits}\n")
    });
    prop::collection::vec(rule, 0..6).prop_map(|rules| rules.concat())
}

fn some_question() -> impl Strategy<Value = String> {
    let pick = |all: &'static [&'static str]| prop::sample::select(all);
    (
        pick(&["u", "v", "v@g", "w@h", "w"]),
        pick(&["attach", "exec"]),
        pick(&["a", "ab", "b", "c", "c slice=s.slice", "c container=kb", "c owner=u"]),
        pick(&["mode=step", "mode=modify", "mode=observe"]),
        pick(&["ttl=1h", "ttl=2h"]),
        pick(&["from=10.0.0.1", "from=11.0.0.1", "from=127.0.0.1"]),
        pick(&["at=mon-03:00", "at=mon-12:00", "at=tue-03:00", "at=wed-21:00"]),
        pick(&["running=0/0/0", "running=1/1/1", "reason=x", "reason=x glass=broken"]),
    )
        .prop_map(|(a, b, c, d, e, f, g, h)| [a, b, c, d, e, f, g, h].join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_granted_that_no_allowing_rule_grants_alone(
        rules in some_rules(), question in some_question(),
    ) {
        let rules = parse("a.toml", &rules).unwrap();
        let asked = Asked::parse(&question);
        let union = rules
            .iter()
            .any(|rule| decide(std::slice::from_ref(rule), &asked.question()).decision.is_ok());
        let answer = decide(&rules, &asked.question());
        if let Ok(permit) = &answer.decision {
            prop_assert!(union, "{permit:?}");
            // And nothing that denied was passed over.
            let said = answer.passed_over.len();
            prop_assert_eq!(rules[said].effect, Effect::Allow);
            prop_assert_eq!(&rules[said].place, &permit.place);
            // Nobody goes without the consent that the rule wants, unless it lets them.
            let wanted = rules[said].limits.approvals.as_ref();
            prop_assert_eq!(permit.consent == Consent::NotNeeded, wanted.is_none());
            if permit.consent == Consent::GlassBroken {
                prop_assert!(wanted.is_some_and(|it| it.break_glass) && asked.reason.is_some());
            }
        }
        // A rule that is told to be unreachable decides nothing.
        for problem in check(&rules).iter().filter(|it| it.message.contains("never reached")) {
            let decided = rules.get(answer.passed_over.len());
            prop_assert!(decided.is_none_or(|rule| rule.place != problem.place), "{problem}");
        }
    }

    #[test]
    fn arbitrary_text_is_rules_or_problems_with_a_line(text in "(?s).{0,400}") {
        if let Err(problems) = parse("a.toml", &text) {
            let lines = text.lines().count() + 1;
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|it| it.place.line <= lines), "{problems:?}");
        }
    }

    #[test]
    fn nearly_good_text_is_rules_or_problems(at: prop::sample::Index, with in "(?s).{0,3}") {
        let places: Vec<usize> = SITE.char_indices().map(|(place, _)| place).collect();
        let (before, after) = SITE.split_at(places[at.index(places.len())]);
        if let Ok(rules) = parse("a.toml", &format!("{before}{with}{}", after.get(1..).unwrap_or(""))) {
            let asked = Asked::parse("eve attach canary@1");
            let _ = decide(&rules, &asked.question());
            let _ = check(&rules);
        }
    }

    #[test]
    fn a_glob_that_covers_another_fits_all_that_it_fits(
        wide in "[ab*?]{1,5}", narrow in "[ab*?]{1,5}", text in "[ab]{0,6}",
    ) {
        let (wide, narrow): (Glob, Glob) = (wide.parse().unwrap(), narrow.parse().unwrap());
        if wide.covers(&narrow) && narrow.matches(&text) {
            prop_assert!(wide.matches(&text), "{wide} {narrow} {text}");
        }
    }
}
