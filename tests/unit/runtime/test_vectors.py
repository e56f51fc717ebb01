"""What Milvus is told of a search's place."""

from tenantry_runtime.vectors import scope_expression


def test_a_search_names_its_tenant_whatever_its_place() -> None:
    own = 'tenant in ["tag"]'
    assert scope_expression("tag", None) == own
    assert scope_expression("tag", {"vs_1": (), "vs_2": ()}) == f'{own} and (store_id in ["vs_1","vs_2"])'
    assert scope_expression("tag", {"vs_1": ["file-1", "file-2"], "vs_2": ()}) == (
        f'{own} and (store_id in ["vs_2"] or (store_id in ["vs_1"] and file_id in ["file-1","file-2"]))'
    )
