//! Prompts for options that are missing on the command line, if there is a terminal.

use std::{
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
    str::FromStr,
};

use anyhow::{Context, bail};
use spoke_diagnostics::error_chain;

/// A terminal to prompt at.
pub(super) struct Prompt<R, W> {
    answers: R,
    questions: W,
}

/// An option to prompt for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromptQuestion {
    /// The option on the command line.
    pub(super) option: &'static str,
    /// The description of the value.
    pub(super) what: &'static str,
}

/// Returns the prompt, or none if standard input or standard error is not a terminal.
pub(super) fn terminal() -> Option<Prompt<io::StdinLock<'static>, io::Stderr>> {
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    is_terminal.then(|| Prompt { answers: io::stdin().lock(), questions: io::stderr() })
}

/// Returns the given value, or else the answer at the prompt. If there is neither, ends with a
/// usage error.
pub(super) fn given_or_prompted<T: FromStr<Err: Error + 'static>, R: BufRead, W: Write>(
    given: Option<T>,
    prompt: &mut Option<Prompt<R, W>>,
    question: PromptQuestion,
) -> anyhow::Result<T> {
    match (given, prompt) {
        (Some(given), _) => Ok(given),
        (None, Some(prompt)) => prompt.ask(question),
        (None, None) => missing(question),
    }
}

/// Ends the process with a usage error.
fn missing(PromptQuestion { option, what }: PromptQuestion) -> ! {
    use clap::{CommandFactory, error::ErrorKind};
    let message = format!("{option} is missing: {what}. At a terminal, the command prompts for it");
    super::super::AgentCli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}

impl<R: BufRead, W: Write> Prompt<R, W> {
    /// Prompts until the answer is valid.
    fn ask<T: FromStr<Err: Error + 'static>>(
        &mut self,
        question: PromptQuestion,
    ) -> anyhow::Result<T> {
        loop {
            write!(self.questions, "{}: ", question.what)?;
            self.questions.flush()?;
            let mut line = String::new();
            if self.answers.read_line(&mut line).context("failed to read the answer")? == 0 {
                bail!("no answer. Use {} to skip the prompt", question.option);
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

    const AUTH: PromptQuestion = PromptQuestion { option: "--auth", what: "the auth service" };

    #[test]
    fn a_prompt_is_repeated_until_the_answer_is_valid() {
        let answers = io::Cursor::new("auth.example.com\n\nhttps://auth.example.com\n");
        let mut prompt = Some(Prompt { answers, questions: Vec::new() });
        let url: ServiceUrl = given_or_prompted(None, &mut prompt, AUTH).unwrap();
        assert_eq!(url.to_string(), "https://auth.example.com");
        let text = String::from_utf8(prompt.unwrap().questions).unwrap();
        assert_eq!(text.matches("the auth service: ").count(), 3, "{text}");
        assert!(text.contains("https://"), "the error is shown: {text}");
    }

    #[test]
    fn a_given_value_is_not_prompted_for_and_the_end_of_input_is_an_error() {
        let answers = io::Cursor::new("");
        let mut prompt = Some(Prompt { answers, questions: Vec::new() });
        let given = Some("https://given.example.com".parse::<ServiceUrl>().unwrap());
        let url: ServiceUrl = given_or_prompted(given, &mut prompt, AUTH).unwrap();
        assert_eq!(url.to_string(), "https://given.example.com");
        let error = given_or_prompted::<ServiceUrl, _, _>(None, &mut prompt, AUTH).unwrap_err();
        assert!(error.to_string().contains("--auth"), "{error}");
    }
}
