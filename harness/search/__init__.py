"""Hyper-parameter search: 250 trials of Optuna's TPE on Ray Tune, fair to every method.

definition   what is searched: setting, method, space, objective, sampler; its id names the search
spaces       which hyper-parameters, over what: suites/spaces.toml
objectives   what is minimised
evaluate     one trial in a worker: the same stages as a run of a sweep
study        Optuna's part: asks for the next point, knows the past trials
inline, tune the two engines: this process, or Ray Tune
trials       STORE/trials: what a search goes on from
driver       one search from start to end
outcome      best trials, importances, the preset and what it changes
"""
