//! Dockerfile builds: parse, plan, cache, solve; steps are run by whoever implements StepRunner.
