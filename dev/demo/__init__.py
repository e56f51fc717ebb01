"""``python -m dev.demo``: three tenants on a real cluster, and the walls between them shown one by one.

target   which cluster: ours (`make cluster-up`), or the one that KUBECONFIG names
kube     requests to its API server, for us and for the end-to-end tests
install  the operator by its Helm chart, the tenants by theirs
story    the tenants, their documents and questions
ask      documents in and questions out, through the official openai client
measure  what Prometheus has scraped
walls    one tenant's credentials at another's door
"""
