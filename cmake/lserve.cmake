# Compile settings that every target shares, and the one way to declare a library.

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

add_library(lserve_options INTERFACE)
target_include_directories(lserve_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
target_compile_options(lserve_options INTERFACE -Wall -Wextra -Wno-psabi)
if(LSERVE_SANITIZE)
  target_compile_options(lserve_options INTERFACE -fsanitize=${LSERVE_SANITIZE}
                         -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(lserve_options INTERFACE -fsanitize=${LSERVE_SANITIZE})
endif()
if(LSERVE_FUZZ)
  target_compile_options(lserve_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
include(CheckLinkerFlag)
check_linker_flag(CXX -fuse-ld=mold LSERVE_MOLD)  # g++ 11 does not know it, installed or not
if(LSERVE_MOLD AND NOT LSERVE_SANITIZE)
  add_link_options(-fuse-ld=mold)
endif()

# lserve_library(NAME LIBRARIES...): target lserve_NAME from every .cc file in the calling folder.
function(lserve_library name)
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  if(sources)
    add_library(lserve_${name} STATIC ${sources})
    target_link_libraries(lserve_${name} PUBLIC lserve_options ${ARGN})
  else()
    add_library(lserve_${name} INTERFACE)
    target_link_libraries(lserve_${name} INTERFACE lserve_options ${ARGN})
  endif()
endfunction()

# lserve_test(NAME LIBRARIES...): one test program from every *_test.cc in the calling folder.
function(lserve_test name)
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  if(sources)
    add_executable(${name}_test ${sources})
    target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(${name}_test PRIVATE LSERVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    target_link_libraries(${name}_test PRIVATE ${ARGN} GTest::gtest GTest::gtest_main)
    gtest_discover_tests(${name}_test DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${name})
  endif()
endfunction()
