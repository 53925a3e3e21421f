//! The places where dlv takes an expression inside something else: what DAP's `evaluate` sends,
//! conditions, hit conditions and log messages of breakpoints.

use super::error::{ExpressionError, Fault, characters_before};
use super::{Expression, parse, read};

/// What the text of a DAP `evaluate` request is to dlv.
#[derive(Debug, Clone)]
pub enum Evaluated<'a> {
    /// An expression, evaluated without calls.
    Read(Expression),
    /// `call f(x)`: runs code of the target.
    Call(Expression),
    /// `call x = y`: writes to the target, and may call.
    Assignment { target: Expression, value: Expression },
    /// `dlv config -list`: a command to dlv itself; what follows `dlv`, without blanks around it.
    ///
    /// Source: `debugCommands` of service/dap/command.go. `SplitN` at the first space gives the
    /// command; `evaluate` in any context (`repl`, `watch`, `hover`) runs it.
    ///
    /// * `help`, `h` (all versions): text.
    /// * `config` (all versions): with `-list` text; else it changes the session's settings in
    ///   memory: `stackTraceDepth`, `showGlobalVariables`, `showRegisters`, `goroutineFilters`,
    ///   `showPprofLabels`, `hideSystemGoroutines`, `substitutePath`; 1.27.1 also `maxStringLen`,
    ///   `maxArrayValues`, `showRawStrings`, and `followExec`, `followExecRegex`, which only a
    ///   launch or attach looks at. It neither writes a file nor touches the target. `substitutePath` says where later
    ///   breakpoints go, and what paths the client sees.
    /// * `sources [regex]`, `s` (all versions): the names of source files. The regex runs in dlv,
    ///   in linear time.
    /// * `target list` (from 1.26.0): pids and command lines of the processes that are debugged.
    /// * `target follow-exec [-on [regex] | -off]` (from 1.26.0): with `-on` dlv attaches to
    ///   children that the target starts, hence beyond the target; without, text.
    /// * `target switch pid` (from 1.26.0): chooses among the processes that dlv has already.
    ///   `target switch` without pid panics, which the DAP server survives.
    /// * `examinemem`, `x` (from 1.26.2): reads up to 1000 bytes anywhere in the target; with `-x`
    ///   the rest is an expression, evaluated without calls. A composite literal in it would write
    ///   to the target, so a brace is refused here.
    Dlv(&'a str),
}

/// Tells what dlv does with the `expression` of an `evaluate` request.
///
/// Source: `onEvaluateRequest` of service/dap/server.go, the same in all versions: the regular
/// expressions `^\s*dlv\s+\S+` and then `^\s*call\s+\S+` choose, and the first `dlv ` or `call ` is
/// cut out. With a tab after the word the two disagree, and dlv would cut at some later place or
/// not at all; such a text is refused.
pub fn parse_evaluated(text: &str) -> Result<Evaluated<'_>, ExpressionError> {
    if let Some(command) = after_word(text, "dlv")? {
        super::check_bounds(text).map_err(|fault| fault.within(text))?;
        if matches!(command.trim().split(' ').next(), Some("examinemem" | "x")) {
            refuse_braces(text)?;
        }
        return Ok(Evaluated::Dlv(command.trim()));
    }
    match after_word(text, "call")? {
        Some(called) => {
            let before = characters_before(text, text.len() - called.len());
            parse_called(called).map_err(|error| error.moved(before))
        }
        None => parse(text).map(Evaluated::Read),
    }
}

/// What follows `word ` if dlv sees the word at the start of the text.
fn after_word<'a>(text: &'a str, word: &str) -> Result<Option<&'a str>, ExpressionError> {
    // Go's \s, without the vertical tab and all that lies beyond ASCII.
    let blank = |character: char| matches!(character, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let start = text.trim_start_matches(blank);
    let Some(rest) = start.strip_prefix(word) else { return Ok(None) };
    if !rest.starts_with(blank) || rest.trim_start_matches(blank).is_empty() {
        return Ok(None);
    }
    let at = text.len() - rest.len();
    let apart = || Fault::malformed(at, "a space must follow 'call' and 'dlv'").within(text);
    rest.strip_prefix(' ').map(Some).ok_or_else(apart)
}

/// `f(x)` or `x = y`. dlv takes the text apart at the `=` that Go's parser stumbles over first.
///
/// Source: `Compile`, `isAssignment` and `CompileSet` of pkg/proc/evalop/evalcompile.go.
fn parse_called(text: &str) -> Result<Evaluated<'static>, ExpressionError> {
    let reading = read(text, true, true)?;
    let Some(at) = reading.assigned else {
        return Ok(Evaluated::Call(Expression::new(text, reading.found)));
    };
    let (target, value) = (text.get(..at).unwrap_or_default(), text.get(at + 1..));
    let value = value.unwrap_or_default();
    let before = characters_before(text, at + 1);
    let assigned = read(value, true, false).map_err(|error| error.moved(before))?;
    Ok(Evaluated::Assignment {
        target: Expression::new(target, reading.found),
        value: Expression::new(value, assigned.found),
    })
}

/// Reads a breakpoint's condition: an expression, and around all of it there may be
/// `delve.catch(...)`, which makes an error count as false (from Delve 1.26). The callee is not
/// among the calls then. An older dlv refuses to call it, and the breakpoint stops with an error.
///
/// Source: `compileAST` with `BreakpointCondition`, pkg/proc/evalop/evalcompile.go.
pub fn parse_condition(text: &str) -> Result<Expression, ExpressionError> {
    let mut reading = read(text, false, false)?;
    let callees = &mut reading.found.callees;
    let outermost = callees.last().and_then(|callee| text.get(callee.place.clone()));
    let catches = outermost == Some("delve.catch") && callees.last().is_some_and(|c| c.maybe_type);
    if reading.is_call && catches {
        callees.pop();
    }
    Ok(Expression::new(text, reading.found))
}

/// The expressions of a log message, those in braces. A message without any is fine.
///
/// Braces must come in pairs, within an expression too, even in its strings; blanks around an
/// expression do not count. dlv gives the rest to `fmt.Sprintf` as the format and does not escape
/// its percent signs: `50%d {x}` prints `x` in the place of `%d`.
///
/// Source: `parseLogPoint` of service/dap/server.go, the same in all versions.
pub fn parse_log_message(text: &str) -> Result<Vec<Expression>, ExpressionError> {
    super::check_bounds(text).map_err(|fault| fault.within(text))?;
    let unpaired = |at| Fault::malformed(at, "a brace without its other half").within(text);
    let mut expressions = Vec::new();
    let (mut open, mut start) = (0_usize, 0);
    for (at, character) in text.char_indices() {
        match (character, open) {
            ('{', 0) => (open, start) = (1, at + 1),
            ('{', _) => open += 1,
            ('}', 0) => return Err(unpaired(at)),
            ('}', 1) => {
                open = 0;
                expressions.push(parse_within(text, start, at)?);
            }
            ('}', _) => open -= 1,
            _ => {}
        }
    }
    if open > 0 { Err(unpaired(start.saturating_sub(1))) } else { Ok(expressions) }
}

fn parse_within(text: &str, start: usize, end: usize) -> Result<Expression, ExpressionError> {
    let braced = text.get(start..end).unwrap_or_default();
    let leading = braced.len() - braced.trim_start().len();
    parse(braced.trim()).map_err(|error| error.moved(characters_before(text, start + leading)))
}

/// Reads the `dataId` of a DAP data breakpoint, `goroutine,frame,expression`. The client sends
/// back what dlv gave it, but dlv takes any: `CreateWatchpoint` evaluates the expression.
///
/// Source: `onSetDataBreakpointRequest` of service/dap/server.go, from 1.26.2 on.
pub fn parse_data_id(text: &str) -> Result<Expression, ExpressionError> {
    let parts: Vec<&str> = text.splitn(3, ',').collect();
    let [goroutine, frame, expression] = parts.as_slice() else {
        let why = "a data breakpoint's id has a goroutine, a frame and an expression";
        return Err(Fault::malformed(0, why).within(text));
    };
    if [goroutine, frame].iter().any(|number| number.parse::<i64>().is_err()) {
        let why = "a data breakpoint's id starts with two numbers";
        return Err(Fault::malformed(0, why).within(text));
    }
    let before = characters_before(text, text.len() - expression.len());
    parse(expression).map_err(|error| error.moved(before))
}

/// Checks the name of a function breakpoint or the location of the API's `FindLocation` and
/// `CreateBreakpoint`: it only reads, whatever it is.
///
/// Behind `*` it is an expression, and dlv evaluates any other location as one if no function and
/// no file is found. That reads, unless there is a composite literal, for which Go needs a brace.
///
/// Source: `AddrLocationSpec.Find` and `NormalLocationSpec.Find` of pkg/locspec/locations.go.
pub fn check_location(text: &str) -> Result<(), ExpressionError> {
    super::check_bounds(text).map_err(|fault| fault.within(text))?;
    refuse_braces(text)
}

fn refuse_braces(text: &str) -> Result<(), ExpressionError> {
    match text.find('{') {
        Some(at) => Err(Fault::refused(at, "a brace").within(text)),
        None => Ok(()),
    }
}

/// How often a breakpoint is passed before it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HitCondition {
    pub operator: HitOperator,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Every so many times.
    MultipleOf,
}

/// Reads a hit condition: `5`, `>= 3`, `%2`.
///
/// dlv looks for such a form anywhere in the text: it takes `>=  3`, with two blanks, for `== 3`.
/// Here it has to be the whole text. `% 0` is refused: dlv divides by it at the first hit and
/// panics.
///
/// Source: `parseHitCondition` of pkg/proc/target_group.go (1.22.1: service/debugger/debugger.go),
/// `checkHitCond` of pkg/proc/breakpoints.go.
pub fn parse_hit_condition(text: &str) -> Result<HitCondition, ExpressionError> {
    super::check_bounds(text).map_err(|fault| fault.within(text))?;
    let wrong = |rest: &str, why| Fault::malformed(text.len() - rest.len(), why).within(text);
    let condition = text.trim();
    let digits = condition.trim_start_matches(['=', '>', '<', '%', '!']);
    let sign = condition.strip_suffix(digits).unwrap_or_default();
    let operator = match sign {
        "" | "==" => HitOperator::Equal,
        "!=" => HitOperator::NotEqual,
        "<" => HitOperator::Less,
        "<=" => HitOperator::LessOrEqual,
        ">" => HitOperator::Greater,
        ">=" => HitOperator::GreaterOrEqual,
        "%" => HitOperator::MultipleOf,
        _ => return Err(wrong(text, "a hit condition has one of == != < <= > >= %, or none")),
    };
    let digits = digits.strip_prefix(' ').unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong(text, "a hit condition is a number, or an operator and a number"));
    }
    // dlv counts in Go's int.
    let count = digits.parse::<i64>().ok().and_then(|count| u64::try_from(count).ok());
    let count = count.ok_or_else(|| wrong(text, "the number is too large"))?;
    if operator == HitOperator::MultipleOf && count == 0 {
        return Err(wrong(text, "nothing is a multiple of 0"));
    }
    Ok(HitCondition { operator, count })
}
