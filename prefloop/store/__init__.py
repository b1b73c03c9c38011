"""What people said: prompts, completions, questions and answers, on SQLite or PostgreSQL through one code path.

database   open_store(url) -> Store, with `read()` and `write()` transactions
people     annotators: persons under a pseudonym, and machines marked as such
feedback   prompts, completions, questions and answers; append-only, with corrections and tombstones
queue      lease and submit: the one way in which anybody, a person or a machine, answers a question
tables     the schema; migrations/ holds its history
"""
