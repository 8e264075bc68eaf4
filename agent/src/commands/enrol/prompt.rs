//! Asks a person for what the command line does not say, where there is one to ask.

use std::{
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
    str::FromStr,
};

use anyhow::{Context, bail};
use spoke_diagnostics::error_chain::error_chain;

/// Who is asked.
pub(super) struct Person<R, W> {
    answers: R,
    questions: W,
}

/// One thing to ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// The option that says it without a question.
    pub(super) option: &'static str,
    /// What it is.
    pub(super) what: &'static str,
}

/// Whoever sits at the terminal; none where there is no terminal.
pub(super) fn person() -> Option<Person<io::StdinLock<'static>, io::Stderr>> {
    let is_there = io::stdin().is_terminal() && io::stderr().is_terminal();
    is_there.then(|| Person { answers: io::stdin().lock(), questions: io::stderr() })
}

/// What is given, or else what the person says; none of both is bad usage.
pub(super) fn given_or_asked<T: FromStr<Err: Error + 'static>, R: BufRead, W: Write>(
    given: Option<T>,
    person: &mut Option<Person<R, W>>,
    question: Question,
) -> anyhow::Result<T> {
    match (given, person) {
        (Some(given), _) => Ok(given),
        (None, Some(person)) => person.ask(question),
        (None, None) => missing(question),
    }
}

/// Ends the process: there is nothing to go on with.
fn missing(Question { option, what }: Question) -> ! {
    use clap::{CommandFactory, error::ErrorKind};
    let message = format!("{option} is missing: {what}; at a terminal it would be asked for");
    super::super::Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}

impl<R: BufRead, W: Write> Person<R, W> {
    /// Asks until the answer can be used.
    fn ask<T: FromStr<Err: Error + 'static>>(&mut self, question: Question) -> anyhow::Result<T> {
        loop {
            write!(self.questions, "{}: ", question.what)?;
            self.questions.flush()?;
            let mut line = String::new();
            if self.answers.read_line(&mut line).context("failed to read the answer")? == 0 {
                bail!("no answer; {} says it without a question", question.option);
            }
            match line.trim().parse() {
                Ok(answer) => return Ok(answer),
                Err(error) => writeln!(self.questions, "  {}", error_chain(&error))?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spoke_service::config::ServiceUrl;

    use super::*;

    const AUTH: Question = Question { option: "--auth", what: "the auth service" };

    #[test]
    fn a_question_is_asked_again_until_the_answer_can_be_used() {
        let answers = io::Cursor::new("auth.example.com\n\nhttps://auth.example.com\n");
        let mut person = Some(Person { answers, questions: Vec::new() });
        let url: ServiceUrl = given_or_asked(None, &mut person, AUTH).unwrap();
        assert_eq!(url.to_string(), "https://auth.example.com");
        let said = String::from_utf8(person.unwrap().questions).unwrap();
        assert_eq!(said.matches("the auth service: ").count(), 3, "{said}");
        assert!(said.contains("https://"), "it says what is wrong: {said}");
    }

    #[test]
    fn what_is_given_is_not_asked_for_and_an_end_of_input_is_no_loop() {
        let answers = io::Cursor::new("");
        let mut person = Some(Person { answers, questions: Vec::new() });
        let given = Some("https://given.example.com".parse::<ServiceUrl>().unwrap());
        let url: ServiceUrl = given_or_asked(given, &mut person, AUTH).unwrap();
        assert_eq!(url.to_string(), "https://given.example.com");
        let error = given_or_asked::<ServiceUrl, _, _>(None, &mut person, AUTH).unwrap_err();
        assert!(error.to_string().contains("--auth"), "{error}");
    }
}
