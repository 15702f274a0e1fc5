//! The language inside `${{ ... }}`: small, pure and typed. Text to a tree of operations.
//! Knows nothing of variables, nor of where in a file the text stands.
//!
//! ```text
//! choice   = or [ "?" choice ":" choice ]
//! or       = and { "||" and }
//! and      = equal { "&&" equal }
//! equal    = order [ ("==" | "!=") order ]
//! order    = sum [ ("<" | "<=" | ">" | ">=") sum ]
//! sum      = product { ("+" | "-") product }
//! product  = sign { ("*" | "/" | "%") sign }
//! sign     = { "-" | "!" } value
//! value    = literal | "(" choice ")" | "[" [ choice { "," choice } ] "]" | call | path
//! call     = NAME "(" [ choice { "," choice } ] ")"
//! path     = NAME { "." NAME | "." INTEGER | "[" choice "]" }
//! ```

mod evaluate;
mod lexer;

use std::ops::Range;

use serde_json::Number;

pub(crate) use evaluate::{Scope, Step, Stop, evaluate};
use lexer::{Lexer, Token};

/// Brackets and signs inside each other: deeper is a mistake, not a pipeline.
const MAX_DEPTH: usize = 64;

/// Operations one after the other. They lie inside each other too, and whoever walks them must not fall.
const MAX_LENGTH: usize = 500;

/// What is wrong, and where in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub code: &'static str,
    pub at: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(at: &Range<usize>, message: impl Into<String>) -> Self {
        Self { code: crate::code::BAD_EXPRESSION, at: at.clone(), message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// An operation and where it is written, in bytes of the text that was parsed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expression {
    pub at: Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Expression>),
    /// `vars`, `matrix`: what paths begin with.
    Name(String),
    /// `a.b`, `a.0`, `a[1]`: what it is looked up in, and what is looked up.
    Member(Box<Expression>, Box<Expression>),
    Call(String, Vec<Expression>),
    Not(Box<Expression>),
    Negate(Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    /// `condition ? then : otherwise`
    Choice(Box<Expression>, Box<Expression>, Box<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Operator::Or => "||",
            Operator::And => "&&",
            Operator::Equal => "==",
            Operator::Unequal => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
        }
    }
}

/// Reads the expression that `text` begins with, up to `}}`. Returns it and how many bytes it took, `}}` with them.
pub(crate) fn parse(text: &str) -> Result<(Expression, usize), Fault> {
    let mut parser = Parser { lexer: Lexer::new(text), depth: 0, length: 0 };
    let (token, at) = parser.peek()?;
    if token == Token::Close {
        return Err(Fault::new(&at, "an expression is empty").hint("write `${{ vars.NAME }}`".to_owned()));
    }
    let expression = parser.choice()?;
    let (token, at) = parser.next()?;
    if token != Token::Close {
        return Err(unexpected(&token, &at, "an operator or `}}`"));
    }
    Ok((expression, at.end))
}

/// Every path in the expression, as far as its steps are known without looking anything up.
pub(crate) fn paths(expression: &Expression, found: &mut Vec<Vec<String>>) {
    match &expression.kind {
        Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) => (),
        Kind::Name(_) | Kind::Member(..) => {
            let mut steps = Vec::new();
            collect(expression, &mut steps, found);
            if !steps.is_empty() {
                found.push(steps);
            }
        }
        Kind::List(all) | Kind::Call(_, all) => all.iter().for_each(|one| paths(one, found)),
        Kind::Not(one) | Kind::Negate(one) => paths(one, found),
        Kind::Binary(_, left, right) => {
            paths(left, found);
            paths(right, found);
        }
        Kind::Choice(condition, then, otherwise) => {
            paths(condition, found);
            paths(then, found);
            paths(otherwise, found);
        }
    }
}

/// The steps of one path; false where a step is computed, which ends what is known.
fn collect(expression: &Expression, steps: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> bool {
    match &expression.kind {
        Kind::Name(name) => {
            steps.push(name.clone());
            true
        }
        Kind::Member(owner, member) => {
            let is_known = collect(owner, steps, found);
            match &member.kind {
                Kind::Text(name) if is_known => {
                    steps.push(name.clone());
                    true
                }
                Kind::Number(number) if is_known => {
                    steps.push(number.to_string());
                    true
                }
                _ => {
                    paths(member, found);
                    false
                }
            }
        }
        _ => {
            paths(expression, found);
            false
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    depth: usize,
    length: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Result<(Token, Range<usize>), Fault> {
        self.lexer.clone().next()
    }

    fn next(&mut self) -> Result<(Token, Range<usize>), Fault> {
        self.lexer.next()
    }

    fn takes(&mut self, sign: &'static str) -> Result<bool, Fault> {
        let is_next = self.peek()?.0 == Token::Sign(sign);
        if is_next {
            self.next()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, sign: &'static str) -> Result<Range<usize>, Fault> {
        let (token, at) = self.next()?;
        if token == Token::Sign(sign) { Ok(at) } else { Err(unexpected(&token, &at, &format!("`{sign}`"))) }
    }

    fn deepen(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        let (_, at) = self.peek()?;
        Err(Fault::new(&at, format!("an expression is nested more than {MAX_DEPTH} deep")))
    }

    fn lengthen(&mut self, at: &Range<usize>) -> Result<(), Fault> {
        self.length += 1;
        if self.length <= MAX_LENGTH {
            return Ok(());
        }
        Err(Fault::new(at, format!("an expression has more than {MAX_LENGTH} operations")))
    }

    fn choice(&mut self) -> Result<Expression, Fault> {
        self.deepen()?;
        let condition = self.binary(0)?;
        let choice = if self.takes("?")? {
            let then = self.choice()?;
            self.expect(":")?;
            let otherwise = self.choice()?;
            let at = condition.at.start..otherwise.at.end;
            Expression { at, kind: Kind::Choice(condition.into(), then.into(), otherwise.into()) }
        } else {
            condition
        };
        self.depth -= 1;
        Ok(choice)
    }

    /// Operators that bind at least as tightly as `level`.
    fn binary(&mut self, level: usize) -> Result<Expression, Fault> {
        const LEVELS: [&[Operator]; 6] = [
            &[Operator::Or],
            &[Operator::And],
            &[Operator::Equal, Operator::Unequal],
            &[Operator::Less, Operator::LessOrEqual, Operator::Greater, Operator::GreaterOrEqual],
            &[Operator::Add, Operator::Subtract],
            &[Operator::Multiply, Operator::Divide, Operator::Remainder],
        ];
        // One loop for all levels: a call for each would take eleven frames of the stack a parenthesis.
        let mut left = self.sign()?;
        let mut compared = None;
        loop {
            let (token, at) = self.peek()?;
            let found = (level..LEVELS.len()).find_map(|level| {
                let operator = LEVELS[level].iter().find(|operator| token == Token::Sign(operator.sign()))?;
                Some((level, *operator))
            });
            let Some((level, operator)) = found else { return Ok(left) };
            // `1 < x < 3` would compare a truth with a number.
            if compared == Some(level) {
                return Err(Fault::new(&at, "comparisons do not chain")
                    .hint("write `a < b && b < c`, or parentheses".to_owned()));
            }
            compared = (2..=3).contains(&level).then_some(level);
            self.lengthen(&at)?;
            self.next()?;
            let right = self.binary(level + 1)?;
            let at = left.at.start..right.at.end;
            left = Expression { at, kind: Kind::Binary(operator, left.into(), right.into()) };
        }
    }

    fn sign(&mut self) -> Result<Expression, Fault> {
        let (token, at) = self.peek()?;
        let make: fn(Box<Expression>) -> Kind = match token {
            Token::Sign("-") => Kind::Negate,
            Token::Sign("!") => Kind::Not,
            _ => return self.value(),
        };
        self.next()?;
        self.deepen()?;
        let inner = self.sign()?;
        self.depth -= 1;
        Ok(Expression { at: at.start..inner.at.end, kind: make(inner.into()) })
    }

    fn value(&mut self) -> Result<Expression, Fault> {
        let (token, at) = self.next()?;
        let mut value = match token {
            Token::Number(number) => Expression { at, kind: Kind::Number(number) },
            Token::Text(text) => Expression { at, kind: Kind::Text(text) },
            Token::Sign("(") => {
                let inner = self.choice()?;
                let end = self.expect(")")?;
                Expression { at: at.start..end.end, kind: inner.kind }
            }
            Token::Sign("[") => {
                let (items, end) = self.items("]")?;
                Expression { at: at.start..end, kind: Kind::List(items) }
            }
            Token::Name(name) => match name.as_str() {
                "null" => Expression { at, kind: Kind::Null },
                "true" => Expression { at, kind: Kind::Bool(true) },
                "false" => Expression { at, kind: Kind::Bool(false) },
                _ if self.takes("(")? => {
                    let (arguments, end) = self.items(")")?;
                    Expression { at: at.start..end, kind: Kind::Call(name, arguments) }
                }
                _ => Expression { at, kind: Kind::Name(name) },
            },
            other => return Err(unexpected(&other, &at, "a value")),
        };
        loop {
            let member = if self.takes(".")? {
                let (token, at) = self.lexer.member()?;
                match token {
                    Token::Name(name) => Expression { at, kind: Kind::Text(name) },
                    Token::Number(number) if number.is_u64() => Expression { at, kind: Kind::Number(number) },
                    other => return Err(unexpected(&other, &at, "a name or the number of an item")),
                }
            } else if self.takes("[")? {
                let member = self.choice()?;
                let end = self.expect("]")?;
                Expression { at: member.at.start..end.start, kind: member.kind }
            } else {
                return Ok(value);
            };
            let end = self.lexer.position();
            self.lengthen(&member.at)?;
            value = Expression { at: value.at.start..end, kind: Kind::Member(value.into(), member.into()) };
        }
    }

    /// What stands between brackets, commas between. Returns where the closing one ends.
    fn items(&mut self, close: &'static str) -> Result<(Vec<Expression>, usize), Fault> {
        let mut items = Vec::new();
        if self.peek()?.0 == Token::Sign(close) {
            return Ok((items, self.next()?.1.end));
        }
        loop {
            items.push(self.choice()?);
            let (token, at) = self.next()?;
            match token {
                Token::Sign(",") => (),
                Token::Sign(sign) if sign == close => return Ok((items, at.end)),
                other => return Err(unexpected(&other, &at, &format!("`,` or `{close}`"))),
            }
        }
    }
}

fn unexpected(token: &Token, at: &Range<usize>, wanted: &str) -> Fault {
    let hint = match token {
        Token::Sign("=") => Some("two values are compared by `==`".to_owned()),
        Token::Sign("&") => Some("write `&&`".to_owned()),
        Token::Sign("|") => Some("write `||`".to_owned()),
        _ => None,
    };
    if *token == Token::End {
        return Fault::new(at, "an expression is not closed").hint("write `${{ vars.NAME }}`".to_owned());
    }
    Fault::new(at, format!("expected {wanted}, found {token}")).hint(hint)
}
