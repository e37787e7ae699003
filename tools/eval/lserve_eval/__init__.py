"""Long-context tasks, their scores, and paired comparisons of attention settings, over any OpenAI-compatible server.

material   the text and the words that tasks are made of        sizing   prompts filled up to a length in tokens
tasks_*    generators                                           client   the server's side: templates, tokens, log-probabilities
scores     metrics                                              runner   all settings of one sample after another; resumable
stats, report, html                                             the paired comparison

RULER-style tasks follow the definitions of RULER (arXiv 2404.06654) over another haystack: scores must not be put beside published ones.
Standard library only.
"""
