//! Computes an expression: every value typed, nothing converted behind anyone's back.
//! Knows nothing of where the names that it looks up come from.

use std::{cmp::Ordering, ops::Range};

use serde_json::Number;

use super::{Expression, Fault, Kind, Operator};
use crate::{
    diagnostic::{Label, Span},
    spec::tree::{Shape, TAKEN_FROM, Tree},
    suggestion,
};

const FUNCTIONS: [&str; 3] = ["default", "join", "len"];

/// What the names in an expression stand for.
pub(crate) trait Scope {
    /// The value at the end of a path of at least one step.
    fn look_up(&mut self, path: &[Step]) -> Result<Tree, Stop>;
}

/// A step of a path and where it is written in the expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub name: String,
    pub at: Range<usize>,
}

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum Stop {
    Fault(Fault),
    /// Nothing lies at the end of a path, which `default` forgives.
    Missing(Fault),
    /// A mistake that was told elsewhere.
    Told,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

/// The value of `expression`, which was parsed from `text` and stands at `span`.
pub(crate) fn evaluate(expression: &Expression, text: &str, span: &Span, scope: &mut dyn Scope) -> Result<Tree, Stop> {
    Evaluation { text, span, scope }.value(expression)
}

struct Evaluation<'a> {
    text: &'a str,
    span: &'a Span,
    scope: &'a mut dyn Scope,
}

impl Evaluation<'_> {
    fn value(&mut self, expression: &Expression) -> Result<Tree, Stop> {
        let at = &expression.at;
        match &expression.kind {
            Kind::Null => Ok(self.computed(Shape::Null, &[])),
            Kind::Bool(value) => Ok(self.computed(Shape::Bool(*value), &[])),
            Kind::Number(number) => Ok(self.computed(Shape::Number(number.clone()), &[])),
            Kind::Text(text) => Ok(self.computed(Shape::Text(text.clone()), &[])),
            Kind::List(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?;
                Ok(self.computed(Shape::List(items), &[]))
            }
            Kind::Name(_) | Kind::Member(..) => self.path(expression),
            Kind::Call(name, arguments) => self.call(name, arguments, at),
            Kind::Not(inner) => {
                let value = self.value(inner)?;
                let truth = truth(&value, inner, "`!`")?;
                Ok(self.computed(Shape::Bool(!truth), &[&value]))
            }
            Kind::Negate(inner) => {
                let value = self.value(inner)?;
                let negated = match number(&value, inner, "`-`")? {
                    Numeric::Whole(number) => Numeric::Whole(-number),
                    Numeric::Fraction(number) => Numeric::Fraction(-number),
                };
                let number = self.written(negated, at)?;
                Ok(self.computed(Shape::Number(number), &[&value]))
            }
            Kind::Choice(condition, then, otherwise) => {
                let value = self.value(condition)?;
                let chosen = if truth(&value, condition, "`?`")? { then } else { otherwise };
                self.value(chosen)
            }
            Kind::Binary(operator @ (Operator::Or | Operator::And), left, right) => {
                let value = self.value(left)?;
                let sign = format!("`{}`", operator.sign());
                // As everywhere: the right side is not asked where the left decides.
                if truth(&value, left, &sign)? == (*operator == Operator::Or) {
                    return Ok(value);
                }
                let value = self.value(right)?;
                let truth = truth(&value, right, &sign)?;
                Ok(self.computed(Shape::Bool(truth), &[&value]))
            }
            Kind::Binary(operator, left, right) => {
                let (a, b) = (self.value(left)?, self.value(right)?);
                let shape = match operator {
                    Operator::Equal => Shape::Bool(equal(&a, &b, at)?),
                    Operator::Unequal => Shape::Bool(!equal(&a, &b, at)?),
                    Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                        let order = order(*operator, (&a, left), (&b, right))?;
                        Shape::Bool(match operator {
                            Operator::Less => order.is_lt(),
                            Operator::LessOrEqual => order.is_le(),
                            Operator::Greater => order.is_gt(),
                            _ => order.is_ge(),
                        })
                    }
                    _ => self.arithmetic(*operator, (&a, left), (&b, right), at)?,
                };
                Ok(self.computed(shape, &[&a, &b]))
            }
        }
    }

    /// A value that is written nowhere but in the expression itself; `parts` are what it was made of.
    fn computed(&self, shape: Shape, parts: &[&Tree]) -> Tree {
        let mut notes: Vec<Label> = Vec::new();
        for part in parts {
            let own = Label { span: part.span.clone(), text: TAKEN_FROM.into() };
            let found = if part.span == *self.span { &part.notes[..] } else { std::slice::from_ref(&own) };
            for note in found {
                if !notes.contains(note) {
                    notes.push(note.clone());
                }
            }
        }
        Tree { span: self.span.clone(), notes, shape }
    }

    fn path(&mut self, expression: &Expression) -> Result<Tree, Stop> {
        let mut steps = Vec::new();
        let mut owner = expression;
        while let Kind::Member(inner, member) = &owner.kind {
            let value = self.value(member)?;
            let name = match &value.shape {
                Shape::Text(name) => name.clone(),
                Shape::Number(number) if !number.is_f64() => number.to_string(),
                Shape::Mistaken => return Err(Stop::Told),
                _ => {
                    let message =
                        format!("a name or the number of an item is wanted here, found {}", value.described());
                    return Err(Fault::new(&member.at, message).into());
                }
            };
            steps.push(Step { name, at: member.at.clone() });
            owner = inner;
        }
        if let Kind::Name(name) = &owner.kind {
            steps.push(Step { name: name.clone(), at: owner.at.clone() });
            steps.reverse();
            let value = self.scope.look_up(&steps)?;
            return if value.is_mistaken() { Err(Stop::Told) } else { Ok(value) };
        }
        steps.reverse();
        let mut value = self.value(owner)?;
        for step in steps {
            let found = member(&value, &step.name).cloned();
            value = found.ok_or_else(|| {
                Stop::Missing(Fault::new(&step.at, format!("{} has no `{}`", value.described(), step.name)))
            })?;
        }
        Ok(value)
    }

    fn call(&mut self, name: &str, arguments: &[Expression], at: &Range<usize>) -> Result<Tree, Stop> {
        match (name, arguments) {
            ("default", [wanted, otherwise]) => match self.value(wanted) {
                Ok(Tree { shape: Shape::Null, .. }) | Err(Stop::Missing(_)) => self.value(otherwise),
                found => found,
            },
            ("len", [one]) => {
                let value = self.value(one)?;
                let length = match &value.shape {
                    Shape::Text(text) => text.chars().count(),
                    Shape::List(items) => items.len(),
                    Shape::Block(entries) => entries.len(),
                    _ => return Err(wrong("`len` takes a text, a list or a block", &value, one)),
                };
                Ok(self.computed(Shape::Number(length.into()), &[&value]))
            }
            ("join", [list, separator]) => {
                let (value, between) = (self.value(list)?, self.value(separator)?);
                let Shape::List(items) = &value.shape else {
                    return Err(wrong("`join` takes a list and a text", &value, list));
                };
                let Shape::Text(between_text) = &between.shape else {
                    return Err(wrong("`join` takes a list and a text", &between, separator));
                };
                let words = items
                    .iter()
                    .map(|item| {
                        item.as_words().ok_or_else(|| wrong("`join` puts texts and numbers together", item, list))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(self.computed(Shape::Text(words.join(between_text)), &[&value, &between]))
            }
            ("default" | "join" | "len", _) => {
                let (wanted, example) = match name {
                    "default" => ("two values", "default(vars.steps, 100)"),
                    "join" => ("a list and a text", "join(vars.names, \", \")"),
                    _ => ("one value", "len(vars.names)"),
                };
                let message = format!("`{name}` takes {wanted}, found {}", arguments.len());
                Err(Fault::new(at, message).hint(format!("write `{example}`")).into())
            }
            _ => {
                let at = at.start..at.start + name.len();
                let hint = suggestion::hint(name, FUNCTIONS, "the functions are");
                Err(Fault::new(&at, format!("no function `{name}`")).hint(hint).into())
            }
        }
    }

    fn arithmetic(
        &self,
        operator: Operator,
        (a, left): (&Tree, &Expression),
        (b, right): (&Tree, &Expression),
        at: &Range<usize>,
    ) -> Result<Shape, Stop> {
        let sign = format!("`{}`", operator.sign());
        if operator == Operator::Add {
            match (&a.shape, &b.shape) {
                (Shape::Text(a), Shape::Text(b)) => return Ok(Shape::Text(format!("{a}{b}"))),
                (Shape::List(a), Shape::List(b)) => return Ok(Shape::List(a.iter().chain(b).cloned().collect())),
                (Shape::Text(_), Shape::Number(_)) | (Shape::Number(_), Shape::Text(_)) => {
                    let message = format!("`+` cannot add {} and {}", a.described(), b.described());
                    let hint = "`join([a, b], \"\")` makes one text of both".to_owned();
                    return Err(Fault::new(at, message).hint(hint).into());
                }
                _ => (),
            }
        }
        let (a, b) = (number(a, left, &sign)?, number(b, right, &sign)?);
        if b.is_zero() && matches!(operator, Operator::Divide | Operator::Remainder) {
            return Err(Fault::new(at, "division by zero").into());
        }
        let number = if let (Numeric::Whole(a), Numeric::Whole(b)) = (a, b) {
            match operator {
                Operator::Add => a.checked_add(b).map(Numeric::Whole),
                Operator::Subtract => a.checked_sub(b).map(Numeric::Whole),
                Operator::Multiply => a.checked_mul(b).map(Numeric::Whole),
                // A whole number where it comes out even, else a fraction.
                Operator::Divide if a % b == 0 => Some(Numeric::Whole(a / b)),
                Operator::Divide => Some(Numeric::Fraction(a as f64 / b as f64)),
                _ => Some(Numeric::Whole(a.rem_euclid(b))),
            }
        } else {
            let (a, b) = (a.fraction(), b.fraction());
            Some(Numeric::Fraction(match operator {
                Operator::Add => a + b,
                Operator::Subtract => a - b,
                Operator::Multiply => a * b,
                Operator::Divide => a / b,
                _ => a.rem_euclid(b),
            }))
        };
        let number = number.ok_or_else(|| self.too_large(at))?;
        Ok(Shape::Number(self.written(number, at)?))
    }

    fn written(&self, number: Numeric, at: &Range<usize>) -> Result<Number, Stop> {
        let number = match number {
            Numeric::Whole(number) => {
                i64::try_from(number).map(Number::from).or_else(|_| u64::try_from(number).map(Number::from)).ok()
            }
            Numeric::Fraction(number) => Number::from_f64(number),
        };
        number.ok_or_else(|| self.too_large(at))
    }

    fn too_large(&self, at: &Range<usize>) -> Stop {
        Fault::new(at, format!("`{}` is a number too large", &self.text[at.clone()])).into()
    }
}

fn truth(value: &Tree, written: &Expression, wanted: &str) -> Result<bool, Stop> {
    match value.shape {
        Shape::Bool(truth) => Ok(truth),
        _ => Err(wrong(&format!("{wanted} takes `true` or `false`"), value, written)),
    }
}

fn number(value: &Tree, written: &Expression, wanted: &str) -> Result<Numeric, Stop> {
    match &value.shape {
        Shape::Number(number) => Ok(Numeric::of(number)),
        _ => Err(wrong(&format!("{wanted} takes numbers"), value, written)),
    }
}

/// Values of two kinds are never equal, and asking is a slip: `"1" == 1`. Anything can be compared with null.
fn equal(a: &Tree, b: &Tree, at: &Range<usize>) -> Result<bool, Stop> {
    if matches!((&a.shape, &b.shape), (Shape::Null, _) | (_, Shape::Null)) {
        return Ok(matches!((&a.shape, &b.shape), (Shape::Null, Shape::Null)));
    }
    if std::mem::discriminant(&a.shape) != std::mem::discriminant(&b.shape) {
        let message = format!("{} and {} are never equal", a.described(), b.described());
        return Err(Fault::new(at, message).into());
    }
    Ok(same(a, b))
}

fn order(
    operator: Operator,
    (a, left): (&Tree, &Expression),
    (b, right): (&Tree, &Expression),
) -> Result<Ordering, Stop> {
    if let (Shape::Text(a), Shape::Text(b)) = (&a.shape, &b.shape) {
        return Ok(a.cmp(b));
    }
    let sign = format!("`{}`", operator.sign());
    let order = number(a, left, &sign)?.order(number(b, right, &sign)?);
    Ok(order.expect("numbers of a file are finite"))
}

fn wrong(wanted: &str, value: &Tree, written: &Expression) -> Stop {
    match value.shape {
        Shape::Mistaken => Stop::Told,
        _ => Fault::new(&written.at, format!("{wanted}, found {}", value.described())).into(),
    }
}

fn member<'a>(value: &'a Tree, name: &str) -> Option<&'a Tree> {
    value.at(&[name])
}

fn same(a: &Tree, b: &Tree) -> bool {
    match (&a.shape, &b.shape) {
        (Shape::Number(a), Shape::Number(b)) => Numeric::of(a).order(Numeric::of(b)) == Some(Ordering::Equal),
        (Shape::List(a), Shape::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Shape::Block(a), Shape::Block(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.iter().any(|(other, b)| other.name == key.name && same(a, b)))
        }
        (Shape::Text(a), Shape::Text(b)) => a == b,
        (Shape::Bool(a), Shape::Bool(b)) => a == b,
        (Shape::Null, Shape::Null) => true,
        _ => false,
    }
}

/// A number as it counts: whole ones stay exact.
#[derive(Clone, Copy)]
enum Numeric {
    Whole(i128),
    Fraction(f64),
}

impl Numeric {
    fn of(number: &Number) -> Self {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        whole.map_or_else(|| Numeric::Fraction(number.as_f64().unwrap_or(f64::NAN)), Numeric::Whole)
    }

    fn fraction(self) -> f64 {
        match self {
            Numeric::Whole(number) => number as f64,
            Numeric::Fraction(number) => number,
        }
    }

    fn is_zero(self) -> bool {
        self.fraction() == 0.0
    }

    fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Numeric::Whole(a), Numeric::Whole(b)) => Some(a.cmp(&b)),
            (a, b) => a.fraction().partial_cmp(&b.fraction()),
        }
    }
}
