//! What a reading of an expression brings to light: the names it reads and what it calls.

use std::ops::Range;

/// Something that an expression reads: where it starts and the fields it passes on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub(super) path: String,
    pub(super) root: usize,
}

impl Variable {
    /// `o` of `o.Items[1].Name`, `some/pkg.Var` of `"some/pkg".Var.Field`. Of `pkg.Var` it is
    /// `pkg`: only the target's symbols tell a package from a variable. Empty where fields are read
    /// from what has no name, as in `(*T)(0x1234).Name`.
    pub fn root(&self) -> &str {
        self.path.get(..self.root).unwrap_or_default()
    }

    /// `o.Items.Name` of `o.Items[1].Name`: the names alone, without indexes, type assertions,
    /// slices, parentheses and stars. It starts with a dot where the root is empty.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// The callee of something shaped like a call, as a place in the text.
#[derive(Debug, Clone)]
pub(super) struct Callee {
    pub(super) place: Range<usize>,
    /// A type's name could stand there as well as a function's.
    pub(super) maybe_type: bool,
}

/// All that a reading found.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) callees: Vec<Callee>,
    pub(super) variables: Vec<Variable>,
    /// Composite literals: dlv builds them in the target, or at least writes to their fields.
    pub(super) literals: usize,
}

impl Found {
    pub(super) fn variable(&mut self, path: String, root: usize) -> usize {
        self.variables.push(Variable { path, root });
        self.variables.len() - 1
    }

    /// Goes on from a variable, or from something without a name, to a field of it.
    pub(super) fn field(&mut self, of: Option<usize>, name: &str) -> usize {
        let known = of.and_then(|index| Some((index, self.variables.get_mut(index)?)));
        match known {
            Some((index, variable)) => {
                variable.path.push('.');
                variable.path.push_str(name);
                index
            }
            None => self.variable(format!(".{name}"), 0),
        }
    }

    pub(super) fn path(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.variables.get(index)).map_or("", Variable::path)
    }

    /// It turned out to be no variable, but the name of a type or a builtin.
    pub(super) fn forget(&mut self, index: Option<usize>) {
        if let Some(variable) = index.and_then(|index| self.variables.get_mut(index)) {
            variable.path.clear();
            variable.root = 0;
        }
    }

    /// What is called is a method, whose receiver is read, or a function, which is not read.
    pub(super) fn called(&mut self, index: Option<usize>) {
        let Some(variable) = index.and_then(|index| self.variables.get_mut(index)) else { return };
        match variable.path.rfind('.') {
            Some(dot) if dot >= variable.root => variable.path.truncate(dot),
            _ => variable.path.clear(),
        }
        variable.root = variable.root.min(variable.path.len());
    }
}
